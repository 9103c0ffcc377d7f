-- Note that a gateway wants to hear of the end of some tasks.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, ttl_ms, count, then per task: id
-- Returns: 'ok', now, then per task: 1 when it is already final or gone, 2 when too many are watched to note it, else 0
local now, gateway, ttl_ms, total = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local MOST_WATCHED = 1000
local reply = { 'ok', now }
allow_when_full()
for i = 1, total do
  local id = ARGV[4 + i]
  if redis.call('EXISTS', JOB .. id) == 0 then
    reply[2 + i] = 1
  elseif redis.call('SCARD', WATCH) >= MOST_WATCHED then
    -- Whoever ends tasks reads all of the set.
    reply[2 + i] = redis.call('SISMEMBER', WATCH, gateway .. ' ' .. id) == 1 and 0 or 2
  else
    redis.call('SADD', WATCH, gateway .. ' ' .. id)
    if redis.call('PTTL', WATCH) < ttl_ms then redis.call('PEXPIRE', WATCH, ttl_ms) end
    reply[2 + i] = 0
  end
end
return reply
