-- The leased tasks of one queue, a window at a time, earliest end first. Writes nothing.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, offset, limit
-- Returns: 'ok', now, leases looked at (fewer than the limit: these were the last), then per one that can be read: id,
--          lease record
local now = clock(ARGV[1])
local window = redis.call('ZRANGEBYSCORE', QUEUE, LEASED, '+inf', 'LIMIT', tonumber(ARGV[2]), tonumber(ARGV[3]))
local reply = { 'ok', now, #window }
for _, id in ipairs(window) do
  if lease_of(id) then
    reply[#reply + 1] = id
    reply[#reply + 1] = redis.call('GET', PROGRESS .. id)
  end
end
return reply
