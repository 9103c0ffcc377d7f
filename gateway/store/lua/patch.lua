-- Change tasks that wait: their place, their time, their contents.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, count, then per task:
--       id, body it was read with (without its time), new body (without its time), priority (0..3),
--       due ('' as it is, '0' now, '+ms' from now, or unix ms)
-- Returns: 'ok', now, tasks for this gateway to claim, then per task: {word, due}; word: ok, changed (since it was
--          read), processing, completed / failed / cancelled (final already), missing; due: unix ms (0: ready)
local now, gateway, total = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local reply, ready = { 'ok', now, 0 }, 0
allow_when_full()
for i = 1, total do
  local base = 4 + (i - 1) * 5
  local id, known, fresh, priority, due = ARGV[base], ARGV[base + 1], ARGV[base + 2], tonumber(ARGV[base + 3]), ARGV[base + 4]
  local place, body = redis.call('ZSCORE', QUEUE, id), fetch(JOB .. id)
  place = place and tonumber(place)
  if not place or not body then
    local record = record_of(id)
    local facts = record and facts_of(record)
    reply[3 + i] = { facts and facts[1] or 'missing', 0 }
  elseif place >= LEASED then
    reply[3 + i] = { 'processing', 0 }
  elseif string.sub(body, 1, #known) ~= known then
    reply[3 + i] = { 'changed', 0 }
  else
    local options = options_of(body)
    local before, held = options.priority, place == HELD
    local at = place >= READY_END and not held and math.floor(place) or 0
    if due ~= '' then
      at = string.sub(due, 1, 1) == '+' and now + tonumber(string.sub(due, 2)) or tonumber(due)
      if at <= now then at = 0 end
    end
    if fresh ~= known then
      redis.call('SET', JOB .. id, fresh .. string.sub(body, #known + 1))
      count('bytes', #fresh - #known)
    end
    if at > 0 or priority ~= before then drop_hold(id, options.key) end
    if due ~= '' then redis.call('HSET', TRAIL .. entry_of(id, body), 'due', math.max(at, now)) end
    if at > 0 then
      to_due(id, priority, at)
    elseif (place >= READY_END and not held) or priority ~= before then
      to_ready(id, priority)
      ready = ready + 1
    end
    reply[3 + i] = { 'ok', at }
  end
end
if ready > 0 then reply[3] = ring(now, ready, gateway) end
settle(now)
return reply
