-- Cancel waiting tasks at once; ask the worker of a leased one, who hears of it in its next heartbeat.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, count, then per task: id
-- Returns: 'ok', now, then per task a word: cancelled, requested, completed / failed / was_cancelled (final already), missing
local now, total = clock(ARGV[1]), tonumber(ARGV[2])
local reply = { 'ok', now }
allow_when_full()
for i = 1, total do
  local id = ARGV[2 + i]
  local place, body = redis.call('ZSCORE', QUEUE, id), redis.call('GET', JOB .. id)
  if place and body then
    if tonumber(place) < LEASED then
      local text, n = failure_pairs('cancelled', 'cancelled before it started')
      finish(now, id, 'cancelled', nil, text, n, body)
      reply[2 + i] = 'cancelled'
    else
      local lease = cmsgpack.unpack(redis.call('GET', PROGRESS .. id))
      lease[CANCEL] = true
      redis.call('SET', PROGRESS .. id, cmsgpack.pack(lease))
      reply[2 + i] = 'requested'
    end
  else
    local record = redis.call('GET', RESULT .. id)
    local status = record and facts_of(record)[1] or 'missing'
    reply[2 + i] = status == 'cancelled' and 'was_cancelled' or status
  end
end
settle(now)
return reply
