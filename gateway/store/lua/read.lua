-- Everything about some tasks, as it stands at one moment. Writes nothing.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, with_log (0/1), count, then per task: id
-- Returns: 'ok', now, then per task: {} (none) or {id, score ('' final), body or record, attempts, lease ('' none),
--          trail (flat hash), log (list)}
local now, with_log, total = clock(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3])
local reply = { 'ok', now }
for i = 1, total do reply[2 + i] = snapshot(ARGV[3 + i], with_log) end
return reply
