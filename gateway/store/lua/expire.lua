-- The sweep of one queue: lapsed leases go back or end, tasks not started in time end, due tasks become ready,
-- and what is past its retention leaves the lists.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, limit (of each kind)
-- Returns: 'ok', now, tasks for this gateway to claim, next alarm (unix ms, 0: none), lapsed, timed out, expired,
--          promoted, purged, failed, cancelled (tasks that ended so)
local now, gateway, limit = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
allow_when_full()
local lapsed, timed_out, ready = 0, 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, LEASED, exclusive(LEASED + now), 'LIMIT', 0, limit)) do
  local lease, body = lease_of(id), fetch(JOB .. id)
  if not lease or not body then
    local text, n = failure_pairs('corrupt', lease and 'the job body is gone' or 'the lease record is gone')
    finish(now, id, 'failed', lease, text, n, body, 'corrupt')
  else
    local kind, outcome, message = 'lease_lapsed', 'lapsed', 'the worker fell silent: its lease ran out'
    if lease[DEADLINE] > 0 and lease[DEADLINE] <= now then
      kind, outcome, message = 'timeout', 'timeout', 'the attempt took longer than timeout_seconds'
      timed_out = timed_out + 1
    else
      lapsed = lapsed + 1
    end
    lease[TRAILED] = true
    local text, n = failure_pairs(kind, message)
    if lease[CANCEL] then
      finish(now, id, 'cancelled', lease, text, n, body, outcome)
    elseif lease[ATTEMPT] >= lease[MAX_ATTEMPTS] then
      finish(now, id, 'failed', lease, text, n, body, outcome)
    else
      local entry = entry_of(id, body)
      local brief = '{"type":"' .. kind .. '","message":"' .. message .. '"}'
      to_ready(id, lease[PRIORITY])
      redis.call('DEL', PROGRESS .. id)
      let_go(id, lease[KEY])
      remember(id, entry, lease, now, outcome, brief)
      redis.call('HSET', TRAIL .. entry, 'error', brief)
      ready = ready + 1
    end
    count(kind == 'timeout' and 'timeouts' or 'lapsed')
  end
end

local late = redis.call('ZRANGEBYSCORE', EXPIRES, '-inf', now, 'LIMIT', 0, limit)
for _, id in ipairs(late) do
  local place = redis.call('ZSCORE', QUEUE, id)
  if place and tonumber(place) < LEASED then
    local text, n = failure_pairs('expired', 'not started in time')
    finish(now, id, 'failed', nil, text, n, nil, 'expired')
  end
  redis.call('ZREM', EXPIRES, id)
end

local promoted = promote(now, limit)
ready = ready + promoted

local old = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #old, 2 do
  local member = old[i]
  count('bytes', -size_in(tonumber(old[i + 1])))
  local entry = string.sub(member, 2)
  for status, list in pairs(SET_OF) do
    if final_mark(status) .. entry == member then redis.call('ZREM', list, entry) end
  end
  -- The id of a plain arq job may have been used again since, and then the result is the later one's.
  local id = id_of(entry)
  local record = not is_native(id) and fetch(RESULT .. id)
  if not record or entry_in(id, record) == entry then redis.call('DEL', RESULT .. id) end
  redis.call('DEL', TRAIL .. entry, LOG .. entry)
  redis.call('ZREM', EXPIRY, member)
end

-- Held back tasks whose key has room are let go here should nothing else have done so: a few at a time, any of them.
local held = redis.call('ZCOUNT', QUEUE, HELD, HELD)
if held > 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, HELD, HELD, 'LIMIT', now % held, 10)) do
    local body = fetch(JOB .. id)
    local key = body and options_of(body).key
    if key then unhold(key) else redis.call('ZADD', QUEUE, rank(2, next_sequence(1) + 1), id) end
  end
end

local alarm = 0
local function consider(first, offset)
  if first[2] then
    local at = math.floor(tonumber(first[2]) - offset)
    if alarm == 0 or at < alarm then alarm = at end
  end
end
consider(redis.call('ZRANGEBYSCORE', QUEUE, READY_END, exclusive(HELD), 'WITHSCORES', 'LIMIT', 0, 1), 0)
-- A lease ends after its last millisecond.
consider(redis.call('ZRANGEBYSCORE', QUEUE, LEASED, '+inf', 'WITHSCORES', 'LIMIT', 0, 1), LEASED - 1)
consider(redis.call('ZRANGE', EXPIRES, 0, 0, 'WITHSCORES'), 0)
-- Its millisecond is over when the sweep is due; the fraction is the size.
consider(redis.call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES'), -1)

local mine = 0
if settings().governed then
  local waiting = ready_count()
  if waiting > 0 then
    local free, at = room(now)
    if free > 0 then mine = ring(now, waiting - unheld, gateway) end
    -- While some may go out, that none does is for want of polls: there is nothing to come back for.
    if free <= 0 and at > 0 then consider({ '', at }, 0) end
  end
elseif ready + unheld > 0 then
  mine = ring(now, ready, gateway)
end
settle(now)
return { 'ok', now, mine, alarm, lapsed, timed_out, #late, promoted, #old / 2, totals.failed or 0, totals.cancelled or 0 }
