-- Keep leases for another while; note progress and log lines.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, count, then per report: id, token, lease_ms (0: as before), progress (raw JSON or ''), lines, line ...
-- Returns: 'ok', now, then per report: {'ok', lease_ms, cancel_requested (0/1), worker} or {'lost'} or {'missing'}
local now, reports, at = clock(ARGV[1]), tonumber(ARGV[2]), 3
local reply = { 'ok', now }
allow_when_full()
local keys, starts = {}, {}
for i = 1, reports do
  keys[i], starts[i] = PROGRESS .. ARGV[at], at
  at = at + 5 + tonumber(ARGV[at + 4])
end
local found, leases, records, places = fetch_all(keys), {}, {}, {}
for i = 1, reports do
  at = starts[i]
  local id, token, lease_ms, progress, lines = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], tonumber(ARGV[at + 4])
  -- A second report of one task finds the lease as the first one left it.
  local lease = leases[id] or is_native(id) and found[i] and lease_in(found[i])
  lease = held(id, token, now, lease)
  if lease then
    if lease_ms > 0 then lease[LEASE_MS] = lease_ms end
    lease[ENDS] = now + lease[LEASE_MS]
    if lease[DEADLINE] > 0 then lease[ENDS] = math.min(lease[ENDS], lease[DEADLINE]) end
    if progress ~= '' or lines > 0 then
      local entry = entry_of(id, not is_native(id) and fetch(JOB .. id) or nil)
      if progress ~= '' then redis.call('HSET', TRAIL .. entry, 'progress', progress) end
      for line = at + 5, at + 4 + lines do
        redis.call('RPUSH', LOG .. entry, cmsgpack.pack({ now, lease[ATTEMPT], ARGV[line] }))
      end
      if lines > 0 then redis.call('LTRIM', LOG .. entry, -LOG_LINES, -1) end
      lease[TRAILED] = true
    end
    leases[id] = lease
    records[#records + 1] = keys[i]
    records[#records + 1] = cmsgpack.pack(lease)
    places[#places + 1] = LEASED + lease[ENDS]
    places[#places + 1] = id
    reply[2 + i] = { 'ok', lease[ENDS] - now, lease[CANCEL] and 1 or 0, lease[WORKER] }
  else
    local known = record_of(id) or (ours(id) and fetch(JOB .. id))
    reply[2 + i] = { known and 'lost' or 'missing' }
  end
end
call_all(records, 'MSET')
call_all(places, 'ZADD', QUEUE)
return reply
