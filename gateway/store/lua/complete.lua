-- End leased tasks well: write the result, once.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, count, then per report: id, token, outcome (msgpack pairs s, r, j), number of pairs
-- Returns: 'ok', now, tasks for this gateway to claim, then per report: {word, worker, started, attempt}; word: completed, lost, missing
local now, gateway, reports = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local reply = { 'ok', now, 0 }
allow_when_full()
local keys, gathered = {}, gather_ends('completed')
for i = 0, reports - 1 do keys[2 * i + 1], keys[2 * i + 2] = PROGRESS .. ARGV[4 + i * 4], JOB .. ARGV[4 + i * 4] end
local found, reported = fetch_all(keys), {}
for i = 0, reports - 1 do
  local base = 4 + i * 4
  local id, token = ARGV[base], ARGV[base + 1]
  local known, body, lease = found[2 * i + 1], found[2 * i + 2], nil
  -- A second report of one task must find what the first one wrote.
  if reported[id] then
    write_ends(gathered)
    gathered, known = gather_ends('completed'), nil
  end
  if known and body and is_native(id) then
    lease = held(id, token, now, lease_in(known))
  else
    body, lease = nil, held(id, token, now)
  end
  if lease then
    reported[id] = true
    finish(now, id, 'completed', lease, ARGV[base + 2], tonumber(ARGV[base + 3]), body, nil, body and gathered)
    reply[4 + i] = { 'completed', lease[WORKER], lease[STARTED], lease[ATTEMPT] }
  else
    local word, _, worker = replay(id, token, 'complete', { completed = true })
    reply[4 + i] = { word, worker, 0, 0 }
  end
end
write_ends(gathered)
reply[3] = ring_after(now, 0, gateway)
settle(now)
return reply
