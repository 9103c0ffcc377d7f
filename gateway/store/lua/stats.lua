-- Counts of one queue. Writes nothing.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now
-- Returns: 'ok', now, ready, due (scheduled or retrying, not yet due), leased, completed, failed, cancelled,
--          unix ms since which the oldest ready task waits (0: none), totals (flat hash),
--          unix ms until which the queue is paused (0: it is not), its own bound (0: none)
local now = clock(ARGV[1])
local oldest = 0
for priority = 0, 3 do
  local first = redis.call('ZRANGEBYSCORE', QUEUE, priority == 0 and '-inf' or priority * PRIORITY_WIDTH,
    exclusive((priority + 1) * PRIORITY_WIDTH), 'LIMIT', 0, 1)[1]
  local body = first and fetch(JOB .. first)
  if body then
    -- The enqueue time stands last in a body made here.
    local made = now
    if has_options(body) and string.sub(body, -9, -9) == '\207' then
      made = struct.unpack('>I4', body, #body - 7) * 2 ^ 32 + struct.unpack('>I4', body, #body - 3)
    end
    if oldest == 0 or made < oldest then oldest = made end
  end
end
local overdue = redis.call('ZRANGEBYSCORE', QUEUE, READY_END, exclusive(math.min(now + 1, HELD)), 'WITHSCORES', 'LIMIT', 0, 1)[2]
if overdue and (oldest == 0 or tonumber(overdue) < oldest) then oldest = math.floor(tonumber(overdue)) end
local ready = ready_count() + redis.call('ZCOUNT', QUEUE, HELD, HELD)
local became_due = redis.call('ZCOUNT', QUEUE, READY_END, exclusive(math.min(now + 1, HELD)))
local waiting = waiting_count()
return { 'ok', now, ready + became_due, waiting - ready - became_due, redis.call('ZCARD', QUEUE) - waiting,
  redis.call('ZCARD', COMPLETED), redis.call('ZCARD', FAILED), redis.call('ZCARD', CANCELLED), oldest,
  redis.call('HGETALL', TOTALS), settings().paused_until_ms > now and settings().paused_until_ms or 0,
  settings().max_pending or 0 }
