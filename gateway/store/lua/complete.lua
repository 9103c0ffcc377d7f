-- End leased tasks well: write the result, once.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, count, then per report: id, token, outcome (msgpack pairs s, r, j), number of pairs
-- Returns: 'ok', now, tasks for this gateway to claim, then per report: {word, worker, started, attempt}; word: completed, lost, missing
local now, gateway, reports = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local reply = { 'ok', now, 0 }
allow_when_full()
for i = 0, reports - 1 do
  local base = 4 + i * 4
  local id, token = ARGV[base], ARGV[base + 1]
  local lease = held(id, token, now)
  if lease then
    finish(now, id, 'completed', lease, ARGV[base + 2], tonumber(ARGV[base + 3]))
    reply[4 + i] = { 'completed', lease[WORKER], lease[STARTED], lease[ATTEMPT] }
  else
    local word, _, worker = replay(id, token, 'complete', { completed = true })
    reply[4 + i] = { word, worker, 0, 0 }
  end
end
reply[3] = ring_after(now, 0, gateway)
settle(now)
return reply
