-- Give leased tasks back, their attempt uncounted.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, count, then per report: id, token, delay_ms, place ('end', or 'front': where it stood before),
--       poll ('' or '<worker> <poll_id>': not if that poll was answered again meanwhile)
-- Returns: 'ok', now, tasks for this gateway to claim, then per report: {word, due};
--          word: pending, scheduled, retrying (scheduled, but earlier attempts count), cancelled, lost, missing,
--          kept (the poll was repeated)
local now, gateway, reports = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local reply, ready = { 'ok', now, 0 }, 0
allow_when_full()
for i = 0, reports - 1 do
  local base = 4 + i * 5
  local id, token, delay_ms, poll = ARGV[base], ARGV[base + 1], tonumber(ARGV[base + 2]), ARGV[base + 4]
  local lease = held(id, token, now)
  local record = poll ~= '' and redis.call('GET', POLL .. poll)
  if lease and record and cmsgpack.unpack(record).recalled then
    reply[4 + i] = { 'kept', 0 }
  elseif lease then
    local body = fetch(JOB .. id)
    if lease[CANCEL] then
      local text, n = failure_pairs('cancelled', 'cancelled while it was processed')
      finish(now, id, 'cancelled', lease, text, n, body)
      reply[4 + i] = { 'cancelled', 0 }
    else
      local word, due = 'pending', 0
      if delay_ms > 0 then
        word, due = lease[ATTEMPT] > 1 and 'retrying' or 'scheduled', now + delay_ms
        to_due(id, lease[PRIORITY], due)
      else
        if ARGV[base + 3] == 'front' then
          redis.call('ZADD', QUEUE, lease[RANK], id)
        else
          to_ready(id, lease[PRIORITY])
        end
        ready = ready + 1
      end
      redis.call('DEL', PROGRESS .. id)
      let_go(id, lease[KEY])
      -- As if it had never been claimed: what must be started by a time must be so again.
      if lease[EXPIRES_AT] then redis.call('ZADD', EXPIRES, lease[EXPIRES_AT], id) end
      if lease[ATTEMPT] > 1 then redis.call('DECR', RETRY .. id) else redis.call('DEL', RETRY .. id) end
      -- What it logged goes when its trail goes, so there must be one.
      if ARGV[base + 3] ~= 'front' or lease[TRAILED] then
        redis.call('HSET', TRAIL .. entry_of(id, body), 'last',
          cmsgpack.pack({ token, word, due, lease[WORKER], 'release' }))
      end
      count('released')
      reply[4 + i] = { word, due }
    end
  else
    local word, due = replay(id, token, 'release', { pending = true, scheduled = true, retrying = true, cancelled = true })
    reply[4 + i] = { word, due }
  end
end
reply[3] = ring_after(now, ready, gateway)
settle(now)
return reply
