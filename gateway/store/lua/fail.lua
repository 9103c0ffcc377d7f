-- An attempt failed: wait for another one, or end the task when it must not or cannot have one.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, count, then per report: id, token, retryable (0/1), delay_ms, error (raw JSON),
--       brief error (raw JSON, for the history), pause (ms that the queue hands nothing out), outcome (msgpack pairs
--       s, r, e), number of pairs
-- Returns: 'ok', now, tasks for this gateway to claim, then per report: {word, due, worker, started, attempt};
--          word: retrying, failed, cancelled, lost, missing; due: unix ms (retrying)
local now, gateway, reports = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local reply, ready, pause_ms = { 'ok', now, 0 }, 0, 0
allow_when_full()
for i = 0, reports - 1 do
  local base = 4 + i * 9
  local id, token = ARGV[base], ARGV[base + 1]
  local lease = held(id, token, now)
  if lease then
    local body = fetch(JOB .. id)
    local entry, word, due = entry_of(id, body), 'retrying', 0
    if lease[CANCEL] then
      word = 'cancelled'
    elseif ARGV[base + 2] ~= '1' or lease[ATTEMPT] >= lease[MAX_ATTEMPTS] then
      word = 'failed'
    end
    lease[TRAILED] = true
    pause_ms = math.max(pause_ms, tonumber(ARGV[base + 6]))
    if word == 'retrying' then
      local delay_ms = tonumber(ARGV[base + 3])
      due = now + delay_ms
      if delay_ms > 0 then
        to_due(id, lease[PRIORITY], due)
      else
        to_ready(id, lease[PRIORITY])
        ready = ready + 1
      end
      remember(id, entry, lease, now, 'failed', ARGV[base + 5])
      redis.call('HSET', TRAIL .. entry, 'error', ARGV[base + 4], 'last',
        cmsgpack.pack({ token, word, due, lease[WORKER], 'fail' }))
      redis.call('DEL', PROGRESS .. id)
      let_go(id, lease[KEY])
      count('retried')
    else
      finish(now, id, word, lease, ARGV[base + 7], tonumber(ARGV[base + 8]), body)
    end
    reply[4 + i] = { word, due, lease[WORKER], lease[STARTED], lease[ATTEMPT] }
  else
    local word, due, worker = replay(id, token, 'fail', { retrying = true, failed = true, cancelled = true })
    reply[4 + i] = { word, due, worker, 0, 0 }
  end
end
if pause_ms > 0 and settings().paused_until_ms < now + pause_ms then
  redis.call('HSET', SETTINGS, 'paused_until_ms', now + pause_ms)
  -- A further partition's settings are copies; their version is that of what they are copies of.
  if PARTITION == 0 then redis.call('HINCRBY', SETTINGS, 'version', 1) end
  known_settings = nil
end
reply[3] = ring_after(now, ready, gateway)
settle(now)
return reply
