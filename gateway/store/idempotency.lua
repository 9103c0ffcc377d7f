-- One Idempotency-Key: who asks first works, who asks again hears the same, who asks for something else is refused.
-- KEYS: STR the key's record: msgpack {fingerprint, done (0/1), running until (unix ms), facts, tried again (1)}
-- ARGV: now, verb, and
--       begin: fingerprint, lock_ms, ttl_ms, facts (ids for what will be made)
--       finish: facts (what was made)
--       pause, abort: nothing
-- Returns: begin: {'fresh'} or {'resumed', facts} (the first asker died: go on with its ids) or {'done', facts} or
--          {'running', ms left} or {'mismatch'}; finish, pause, abort: {'ok'}
local now, verb = tonumber(ARGV[1]), ARGV[2]
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local raw = redis.call('GET', KEYS[1])
local record = raw and cmsgpack.unpack(raw)
if verb == 'begin' then
  local fingerprint, lock_ms, ttl_ms, facts = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
  if not record then
    redis.call('SET', KEYS[1], cmsgpack.pack({ fingerprint, 0, now + lock_ms, facts }), 'PX', ttl_ms)
    return { 'fresh' }
  end
  if record[1] ~= fingerprint then return { 'mismatch' } end
  if record[2] == 1 then return { 'done', record[4] } end
  if record[3] > now then return { 'running', record[3] - now } end
  record[3], record[5] = now + lock_ms, 1
  redis.call('SET', KEYS[1], cmsgpack.pack(record), 'KEEPTTL')
  return { 'resumed', record[4] }
end
if record and record[2] == 0 then
  if verb == 'finish' then
    -- A write that needs no memory lets the next one pass when Redis is full: what was made is made.
    redis.call('PEXPIRE', KEYS[1], redis.call('PTTL', KEYS[1]))
    record[2], record[4] = 1, ARGV[3]
    redis.call('SET', KEYS[1], cmsgpack.pack(record), 'KEEPTTL')
  elseif verb == 'pause' or record[5] then
    -- An earlier try may be on its way yet: were the key free, what it stores would be made again under other ids.
    redis.call('PEXPIRE', KEYS[1], redis.call('PTTL', KEYS[1]))
    record[3] = 0
    redis.call('SET', KEYS[1], cmsgpack.pack(record), 'KEEPTTL')
  else
    redis.call('DEL', KEYS[1])
  end
end
return { 'ok' }
