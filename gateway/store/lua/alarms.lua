-- The index of alarms: by when each queue needs a sweep. A hint that gateways leave each other, so that an alarm outlives
-- the one that knew of it; what is true stands in the queues.
-- KEYS: ZSET of queues' tags by their next alarm (unix ms)
-- ARGV: now (unix ms or ''), ms ahead of now from which alarms are taken, ms that a taken one is left to its taker, most
--       to take, count of noted ones, count of settled ones, then per noted one: tag, at;
--       per settled one: tag, until when it was left to the taker, next alarm (0: none)
-- Returns: 'ok', now, then per alarm taken: tag, at, until when it is left to this gateway (unix ms)
local now = clock(ARGV[1])
local INDEX, ahead_ms, left_ms, most, noted, settled =
  KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])

-- The fraction of a score says more. TAKEN: left to who took it until then. NOTED: and an alarm was noted since; the
-- taker's sweep may not have seen why, so its word counts where it is sooner only.
local TAKEN, NOTED = 0.25, 0.5
local function state_of(tag)
  local score = tonumber(redis.call('ZSCORE', INDEX, tag) or nil)
  if score then return math.floor(score), score % 1 end
end
local function put(tag, score) redis.call('ZADD', INDEX, string.format('%.17g', score), tag) end

local due = redis.call('ZRANGEBYSCORE', INDEX, '-inf', string.format('%.17g', now + ahead_ms), 'LIMIT', 0, 1)
if noted + settled + #due == 0 then return { 'ok', now } end
-- A write that needs no memory: after it Redis lets the rest of the script write even when it is full.
redis.call('PERSIST', INDEX)

for i = 7, 6 + 2 * noted, 2 do
  local tag, at = ARGV[i], tonumber(ARGV[i + 1])
  local known, state = state_of(tag)
  if known and state > 0 then
    put(tag, known + NOTED)
  elseif not known or at < known then
    put(tag, at)
  end
end

for i = 7 + 2 * noted, 6 + 2 * noted + 3 * settled, 3 do
  local tag, left_until, at = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local known, state = state_of(tag)
  if known == left_until and state > 0 then
    if state == NOTED then at = at > 0 and math.min(at, known) or known end
    if at > 0 then put(tag, at) else redis.call('ZREM', INDEX, tag) end
  end
end

local reply = { 'ok', now }
due = redis.call('ZRANGEBYSCORE', INDEX, '-inf', string.format('%.17g', now + ahead_ms), 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #due, 2 do
  local at = tonumber(due[i + 1])
  -- Whoever it was left to said nothing in time: it may be due for long.
  if at % 1 > 0 then at = now end
  local left_until = math.max(at, now) + left_ms
  put(due[i], left_until + TAKEN)
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = due[i], at, left_until
end
return reply
