-- The index of alarms: by when each queue needs a sweep. A hint that gateways leave each other, so that an alarm outlives
-- the one that knew of it; what is true stands in the queues.
-- KEYS: ZSET of queues' tags by their next alarm (unix ms)
-- ARGV: now (unix ms or ''), ms ahead of now from which alarms are taken, ms that a taken one is left to its taker, most
--       to take, count of noted ones, count of settled ones, then per noted one: tag, at;
--       per settled one: tag, until when it was left to the taker, next alarm (0: none)
-- Returns: 'ok', now, then per alarm taken: tag, at, until when it is left to this gateway (unix ms)
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local INDEX, ahead_ms, left_ms, most, noted, settled =
  KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
-- A write that needs no memory: after it Redis lets the rest of the script write even when it is full.
redis.call('PERSIST', INDEX)

-- Noted while it was left to a taker: the taker's sweep may not have seen why, so its word about the next one does not
-- count. The fraction is the sign of that.
local NOTED = 1 / 1024
for i = 7, 6 + 2 * noted, 2 do
  local tag, at = ARGV[i], tonumber(ARGV[i + 1])
  local known = tonumber(redis.call('ZSCORE', INDEX, tag) or nil)
  redis.call('ZADD', INDEX, string.format('%.17g', known and known <= at and known + NOTED or at), tag)
end

for i = 7 + 2 * noted, 6 + 2 * noted + 3 * settled, 3 do
  local tag = ARGV[i]
  if tonumber(redis.call('ZSCORE', INDEX, tag) or nil) == tonumber(ARGV[i + 1]) then
    if tonumber(ARGV[i + 2]) > 0 then
      redis.call('ZADD', INDEX, ARGV[i + 2], tag)
    else
      redis.call('ZREM', INDEX, tag)
    end
  end
end

local reply = { 'ok', now }
local due = redis.call('ZRANGEBYSCORE', INDEX, '-inf', string.format('%.17g', now + ahead_ms), 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #due, 2 do
  local at = math.floor(tonumber(due[i + 1]))
  local left_until = math.max(at, now) + left_ms
  redis.call('ZADD', INDEX, string.format('%.0f', left_until), due[i])
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = due[i], at, left_until
end
return reply
