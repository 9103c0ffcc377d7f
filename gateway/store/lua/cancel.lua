-- Cancel waiting tasks at once; ask the worker of a leased one, who hears of it in its next heartbeat.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, count, then per task: id
-- Returns: 'ok', now, then per task a word: cancelled, requested, completed / failed / was_cancelled (final already), missing
local now, total = clock(ARGV[1]), tonumber(ARGV[2])
local reply = { 'ok', now }
allow_when_full()
for i = 1, total do
  local id = ARGV[2 + i]
  local place, body = redis.call('ZSCORE', QUEUE, id), fetch(JOB .. id)
  if place then
    if tonumber(place) < LEASED then
      local text, n = failure_pairs('cancelled', 'cancelled before it started')
      finish(now, id, 'cancelled', nil, text, n, body)
      reply[2 + i] = 'cancelled'
    else
      local lease = lease_of(id)
      if lease then
        lease[CANCEL] = true
        redis.call('SET', PROGRESS .. id, cmsgpack.pack(lease))
      end
      reply[2 + i] = 'requested'
    end
  else
    local record = record_of(id)
    local facts = record and facts_of(record)
    local status = facts and facts[1] or 'missing'
    reply[2 + i] = status == 'cancelled' and 'was_cancelled' or status
  end
end
settle(now)
return reply
