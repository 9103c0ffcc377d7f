-- Pass a ring on: this gateway has no poll for the queue any more, but tasks are ready.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway
-- Returns: 'ok', now, tasks for this gateway to claim
local now, gateway = clock(ARGV[1]), ARGV[2]
redis.call('ZREM', WAITING, gateway)
redis.call('HDEL', WANTS, gateway)
local ready = ready_count()
return { 'ok', now, ready > 0 and ring(now, ready, gateway) or 0 }
