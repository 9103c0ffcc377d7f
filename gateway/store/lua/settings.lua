-- What an operator set for a queue. Writes nothing.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now
-- Returns: 'ok', now, then the fields (flat hash)
local now = clock(ARGV[1])
local reply = { 'ok', now }
for _, text in ipairs(redis.call('HGETALL', SETTINGS)) do reply[#reply + 1] = text end
return reply
