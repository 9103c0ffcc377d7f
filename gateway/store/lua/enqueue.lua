-- Store tasks and ring gateways that have polls waiting. A task refused leaves no trace; repeating a call is safe.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now (unix ms or ''), gateway, limit (waiting tasks), count, then per task:
--       id, priority (0..3), due ('' now, '+ms' from now, or unix ms), expires_in_ms (0: never),
--       group (how many tasks from here on stand or fall together, 0: already counted), body (without its time)
-- Returns: 'ok', now, tasks for this gateway to claim, waiting tasks with these, then per task: its due time
--          (0: ready at once), or -1 when full
local now, gateway, limit, total = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local accepted, verdict, taken = {}, false, waiting_count()
for i = 0, total - 1 do
  local group = tonumber(ARGV[9 + i * 6])
  if group > 0 then
    -- A call repeated after its reply was lost finds its own tasks, final ones perhaps: they count as accepted.
    verdict = taken + group <= limit or redis.call('EXISTS', JOB .. ARGV[5 + i * 6], RESULT .. ARGV[5 + i * 6]) > 0
  end
  accepted[i] = verdict
  if verdict then taken = taken + 1 end
end
local reply = { 'ok', now, 0, taken }
local any = false
for i = 0, total - 1 do
  if accepted[i] then any = true end
  local due = ARGV[7 + i * 6]
  local at = 0
  if due ~= '' then
    at = string.sub(due, 1, 1) == '+' and now + tonumber(string.sub(due, 2)) or tonumber(due)
    if at <= now then at = 0 end
  end
  reply[5 + i] = accepted[i] and at or -1
end
if not any then return reply end

promote(now, 200)
local sequence = next_sequence(total)
local stamp = cmsgpack.pack(now)
local ready = 0
for i = 0, total - 1 do
  if accepted[i] then
    local base = 5 + i * 6
    local id, priority, at = ARGV[base], tonumber(ARGV[base + 1]), reply[5 + i]
    if redis.call('EXISTS', RESULT .. id) == 0 and redis.call('SET', JOB .. id, ARGV[base + 5] .. stamp, 'NX') then
      if at > 0 then
        to_due(id, priority, at)
      else
        redis.call('ZADD', QUEUE, rank(priority, sequence + i + 1), id)
        ready = ready + 1
      end
      redis.call('ZADD', LIVE, 0, entry_of(id))
      local expires_in_ms = tonumber(ARGV[base + 3])
      if expires_in_ms > 0 then redis.call('ZADD', EXPIRES, now + expires_in_ms, id) end
      count('enqueued')
    end
  end
end
if ready > 0 then reply[3] = ring(now, ready, gateway) end
settle(now)
return reply
