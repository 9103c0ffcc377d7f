-- Change what an operator set for a queue; what was held back or waited for it is looked at anew.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, version that the change was made for ('' any), pause until (unix ms, '' as it is, '+ms' from now
--       and no shorter than it is), count of fields to replace all others with ('' none is touched), then name, value ...
-- Returns: 'ok', now, tasks for this gateway to claim, new version, paused until (unix ms), tasks still held back; or
--          'changed', now, 0, version
local now, gateway, version, pause, total = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local before = settings()
if version ~= '' and tonumber(version) ~= before.version then return { 'changed', now, 0, before.version } end
allow_when_full()
local paused_until = before.paused_until_ms
if string.sub(pause, 1, 1) == '+' then
  paused_until = math.max(paused_until, now + tonumber(string.sub(pause, 2)))
elseif pause ~= '' then
  paused_until = tonumber(pause)
end
if total ~= '' then
  redis.call('DEL', SETTINGS)
  for i = 6, 5 + 2 * tonumber(total), 2 do redis.call('HSET', SETTINGS, ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', SETTINGS, 'version', before.version + 1)
if paused_until > now then
  redis.call('HSET', SETTINGS, 'paused_until_ms', string.format('%.0f', paused_until))
else
  redis.call('HDEL', SETTINGS, 'paused_until_ms')
end
if total ~= '' and not tonumber(redis.call('HGET', SETTINGS, 'rate_per_second') or nil) then redis.call('DEL', PACE) end
known_settings = nil
local left = redis.call('ZCOUNT', QUEUE, HELD, HELD)
if total ~= '' and left > 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, HELD, HELD, 'LIMIT', 0, 500)) do
    local body = fetch(JOB .. id)
    local key = body and options_of(body).key
    if key then unhold(key) end
  end
  left = redis.call('ZCOUNT', QUEUE, HELD, HELD)
end
local mine = ring(now, ready_count(), gateway)
settle(now)
return { 'ok', now, mine, before.version + 1, paused_until > now and paused_until or 0, left }
