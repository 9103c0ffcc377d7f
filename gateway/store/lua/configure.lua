-- Change what an operator set for a queue; what was held back or waited for it is looked at anew.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, version that the change was made for ('' any; '=n' for a partition: these are the queue's settings
--       of version n, with all that they hold; not if it has newer ones; '>n': the version is to be above n; '<n': as n,
--       and older partitions that are worked off are forgotten: `spread` may fall), pause until (unix ms, '' as it is,
--       '+ms' from now and no shorter than it is), count of fields to replace all others with ('' none is touched), then
--       name, value ...
-- Returns: 'ok', now, tasks for this gateway to claim, new version, paused until (unix ms), tasks still held back; or
--          'changed', now, 0, version
local now, gateway, version, pause, total = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local before = settings()
local sign, number = string.sub(version, 1, 1), tonumber(string.sub(version, 2))
local copied, above, narrowed = sign == '=' and number, sign == '>' and number, sign == '<' and number
local expected = not copied and not above and version ~= '' and (narrowed or tonumber(version))
if copied and before.version > copied or expected and expected ~= before.version then
  return { 'changed', now, 0, before.version }
end
local fresh = copied or math.max(before.version, above or 0) + 1
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
redis.call('HSET', SETTINGS, 'version', fresh)
if paused_until > now then
  redis.call('HSET', SETTINGS, 'paused_until_ms', string.format('%.0f', paused_until))
else
  redis.call('HDEL', SETTINGS, 'paused_until_ms')
end
known_settings = nil
local spread = math.max((copied or narrowed) and settings().spread or before.spread, settings().partitions)
if spread > 1 then redis.call('HSET', SETTINGS, 'spread', spread) else redis.call('HDEL', SETTINGS, 'spread') end
if spread > before.spread and PARTITION == 0 then
  -- Who waits here only is to look again, and hears of the partitions then.
  for _, waiting in ipairs(redis.call('ZRANGE', WAITING, 0, -1)) do
    redis.call(PUBLISH, RING .. waiting .. RING_END, 'ready 1 ' .. TAG)
  end
end
known_settings = nil
-- What was handed out at another rate is paid for: a slower one must not hold up a faster one.
if settings().rate_per_second ~= before.rate_per_second then redis.call('DEL', PACE) end
local left = redis.call('ZCOUNT', QUEUE, HELD, HELD)
if total ~= '' and left > 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, HELD, HELD, 'LIMIT', 0, 500)) do
    local body = fetch(JOB .. id)
    local key = body and options_of(body).key
    if key then unhold(key) end
  end
  left = redis.call('ZCOUNT', QUEUE, HELD, HELD)
end
local mine = ring(now, ready_count() - unheld, gateway)
settle(now)
return { 'ok', now, mine, fresh, paused_until > now and paused_until or 0, left }
