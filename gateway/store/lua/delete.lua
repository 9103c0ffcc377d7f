-- Forget tasks for good: final ones, and waiting ones with them. Nothing of them is left.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, count, then per task: id
-- Returns: 'ok', now, then per task a word: deleted, processing, missing
local now, total = clock(ARGV[1]), tonumber(ARGV[2])
local reply = { 'ok', now }
allow_when_full()
for i = 1, total do
  local id = ARGV[2 + i]
  local place, record = redis.call('ZSCORE', QUEUE, id), record_of(id)
  local body = (place or is_native(id)) and fetch(JOB .. id)
  if place and tonumber(place) >= LEASED then
    reply[2 + i] = 'processing'
  elseif body or record then
    forget(id, body, record)
    reply[2 + i] = 'deleted'
  else
    reply[2 + i] = 'missing'
  end
end
settle(now)
return reply
