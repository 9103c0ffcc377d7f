-- Forget waiting tasks of a queue, due ones and held ones with them: those made until `before`, at most `limit` a call.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, before (unix ms: what was made later stays), offset (tasks to pass over: they stay), limit
-- Returns: 'ok', now, tasks forgotten, tasks passed over in all (the next call's offset), 1 when there may be more
local now, before, offset, limit = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
allow_when_full()
local forgotten, line = 0, redis.call('ZRANGEBYSCORE', QUEUE, '-inf', exclusive(LEASED), 'LIMIT', offset, limit)
local last = crockford(before)
for _, id in ipairs(line) do
  local body = fetch(JOB .. id)
  if string.sub(entry_of(id, body), 1, 10) <= last then
    forget(id, body, nil)
    forgotten = forgotten + 1
  end
end
settle(now)
return { 'ok', now, forgotten, offset + #line - forgotten, #line == limit and 1 or 0 }
