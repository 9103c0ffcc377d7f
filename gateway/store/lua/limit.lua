-- A rate limit shared by all gateways: a leaky bucket by its theoretical arrival time (GCRA).
-- KEYS: STR the bucket's arrival time (unix ms); it ends by itself when the bucket is full again
-- ARGV: now (unix ms or ''), requests a minute, requests that wait for an answer, requests to put in store besides
-- Returns: 'ok', now, requests granted, put in store, left in the bucket, ms until one more may be asked for (0: now),
--          ms until the bucket is full again
local now = clock(ARGV[1])
local limit, asked, more = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local step = 60000 / limit
local arrival = math.max(now, tonumber(redis.call('GET', KEYS[1]) or now) or now)
local free = math.max(0, math.floor((60000 - (arrival - now)) / step + 1e-3))
local granted = math.min(asked, free)
local stored = math.min(more, free - granted)
arrival = arrival + (granted + stored) * step
if granted > 0 then
  redis.call('SET', KEYS[1], string.format('%.17g', arrival), 'PX', math.ceil(arrival - now) + 1)
end
local wait = granted < asked and math.ceil(arrival + step - 60000 - now) or 0
return { 'ok', now, granted, stored, free - granted - stored, wait, math.ceil(arrival - now) }
