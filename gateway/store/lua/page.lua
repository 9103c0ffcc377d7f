-- The names of a queue's tasks, newest first, as they stand at one moment. Writes nothing.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, before (list entry, exclusive; '' from the newest), limit, lists (any of: live completed failed cancelled)
-- Returns: 'ok', now, then per task: entry, id
local now, before, limit = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local list_of = { live = LIVE, completed = COMPLETED, failed = FAILED, cancelled = CANCELLED }
local entries = {}
for i = 4, #ARGV do
  local found = redis.call('ZREVRANGEBYLEX', list_of[ARGV[i]], before == '' and '+' or '(' .. before, '-', 'LIMIT', 0, limit)
  for _, entry in ipairs(found) do entries[#entries + 1] = entry end
end
table.sort(entries, function(a, b) return a > b end)
local reply = { 'ok', now }
for i = 1, math.min(limit, #entries) do
  reply[#reply + 1] = entries[i]
  reply[#reply + 1] = id_of(entries[i])
end
return reply
