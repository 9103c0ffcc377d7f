-- Shared by every verb: loaded in front of each script, after the key names that store/keys.py spells.
--
-- One ZSET per queue, arq's own (`arq:queue:{T}`), says where a task stands; its score is its place, in four bands:
--   ready   score < 2^40                 rank: priority * 2^38 + sequence / 4096 (FIFO by Redis's own counter)
--   due     2^40 <= score < 2^49         unix ms at which it becomes ready; the fraction is its priority
--   held    score = 2^49                 ready, but as many tasks of its concurrency key run as may; its rank stands
--                                        in the ZSET of the key
--   leased  2^50 <= score                2^50 + unix ms at which its lease ends
-- A move between bands is one ZADD, so a task can never stand in two of them, nor in none.
-- Lua does not roll back: every verb checks everything first, then writes.

local READY_END, HELD, LEASED = 2 ^ 40, 2 ^ 49, 2 ^ 50
local PRIORITY_WIDTH, SEQUENCE_STEP = 2 ^ 38, 4096
local REGISTRATION_MS = 600000
local MIN_RECORD_TTL_MS = 10000
local RUNNING_OF_A_KEY = 1
local PACE_BURST_SECONDS = 0.1

-- Places in the lease record (msgpack array under arq:in-progress:<id>). TRAILED: this lease left a trail; FRESH: there
-- was none when it began. Records of older gateways end before KEY or before FRESH.
local TOKEN, STARTED, LEASE_MS, RANK, WORKER, ATTEMPT, MAX_ATTEMPTS, DEADLINE, ENDS, PRIORITY, CANCEL, TRAILED, KEY, EXPIRES_AT, FRESH =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15

local SET_OF = { completed = COMPLETED, failed = FAILED, cancelled = CANCELLED }

-- The list of one final state, and how the set of what expires marks it.
local function final_list(status)
  return status == 'completed' and COMPLETED or status == 'failed' and FAILED or CANCELLED
end

local function final_mark(status) return status == 'completed' and 'c' or status == 'failed' and 'f' or 'x' end

-- The clock of everything: handed in by tests, Redis's own otherwise. Milliseconds.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- GET that takes a key of a foreign type for none at all: one bad key must not stop a queue.
local function fetch(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then return nil end
  return value or nil
end

-- One command for a whole list of arguments, instead of one for each; a long list in parts, since Lua's stack takes 8,000
-- values. Returns the sum of what it answers. AT_ONCE: whole pairs and triples.
local AT_ONCE = 3000
local function call_all(list, command, key)
  local sum = 0
  for first = 1, #list, AT_ONCE do
    local last, answer = math.min(first + AT_ONCE - 1, #list), nil
    if key then
      answer = redis.call(command, key, unpack(list, first, last))
    else
      answer = redis.call(command, unpack(list, first, last))
    end
    if type(answer) == 'number' then sum = sum + answer end
  end
  return sum
end

-- Several keys as `fetch` reads one; false: none. In a cluster a plain arq producer's key may be in another slot.
local function fetch_all(keys)
  local values = {}
  for first = 1, #keys, AT_ONCE do
    local last = math.min(first + AT_ONCE - 1, #keys)
    local part = redis.pcall('MGET', unpack(keys, first, last))
    if not part.err and last == #keys and first == 1 then return part end
    for i = first, last do
      if part.err then values[i] = fetch(keys[i]) or false else values[i] = part[i - first + 1] end
    end
  end
  return values
end

local function exclusive(number) return string.format('(%.17g', number) end

-- A write that needs no memory: after it Redis lets the rest of the script write even when it is full.
local function allow_when_full() redis.call('PERSIST', QUEUE) end

-- arq's ids of tasks made here are the queue's tag and a ULID; any other was made by a plain arq producer. One of his may
-- look like that, but where lists would read it as another (`id_of`).
local function is_native(id)
  return #id == #TAG + 26 and string.find(id, TAG, 1, true) == 1 and string.byte(id, #TAG + 11) ~= 61
end

local function crockford(ms)
  local alphabet, text = '0123456789abcdefghjkmnpqrstvwxyz', ''
  for _ = 1, 10 do
    local digit = ms % 32
    text = string.sub(alphabet, digit + 1, digit + 1) .. text
    ms = (ms - digit) / 32
  end
  return text
end

-- When a plain arq producer made a job (unix ms); 0: it does not say.
local function made_at(body)
  local ok, job = pcall(cmsgpack.unpack, body or '')
  if ok and type(job) == 'table' and type(job.et) == 'number' and job.et > 0 and job.et < 2 ^ 48 then
    return math.floor(job.et)
  end
  return 0
end

-- The name of a task in the lists (sorted by time of creation), and the way back.
local function entry_of(id, body)
  if is_native(id) then return string.sub(id, #TAG + 1) end
  return crockford(made_at(body)) .. '=' .. id
end

local function id_of(entry)
  if string.sub(entry, 11, 11) == '=' then return string.sub(entry, 12) end
  return TAG .. entry
end

-- Of a queue that is spread over partitions, each is a tag of its own: `<tag>` is the first, `<tag>/<k>` are the others.
local PARTITION = tonumber(string.match(TAG, '/(%d+)}$')) or 0

-- This partition's part of a limit that holds for the whole queue; together they never give more.
local function part_of(limit, partitions)
  return math.floor(limit / partitions) + (PARTITION < limit % partitions and 1 or 0)
end

-- What the queue's operator set (HASH); a field that was never set is nil. Read once a call. What limits hand-outs is
-- this partition's part of it. spread: partitions that may hold tasks, also from before there were fewer.
local known_settings
local function settings()
  if not known_settings then
    local found = redis.call('HMGET', SETTINGS, 'version', 'max_pending', 'max_processing', 'rate_per_second',
      'max_processing_per_key', 'paused_until_ms', 'partitions', 'spread')
    known_settings = { version = tonumber(found[1]) or 0, max_pending = tonumber(found[2]), max_processing = tonumber(found[3]),
      rate_per_second = tonumber(found[4]), max_processing_per_key = tonumber(found[5]) or RUNNING_OF_A_KEY,
      paused_until_ms = tonumber(found[6]) or 0, partitions = tonumber(found[7]) or 1, spread = tonumber(found[8]) or 1 }
    local partitions, spread = known_settings.partitions, known_settings.spread
    if partitions > 1 or spread > 1 or PARTITION > 0 then
      local processing, rate = known_settings.max_processing, known_settings.rate_per_second
      -- From before there were fewer: each is worked off by the least that it needs, which the others go without.
      local older = math.max(spread - partitions, 0)
      local least = rate and math.min(1 / PACE_BURST_SECONDS, rate / (partitions + older))
      if PARTITION >= partitions then
        processing, rate = processing and 1, least
      else
        processing = processing and math.max(part_of(math.max(processing - older, 0), partitions), 1)
        rate = rate and (rate - older * least) / partitions
      end
      known_settings.max_processing, known_settings.rate_per_second = processing, rate
    end
    known_settings.governed = known_settings.max_processing or known_settings.rate_per_second
      or known_settings.paused_until_ms > 0
  end
  return known_settings
end

-- How many tasks may wait here. limit: of the whole queue, unless it has its own.
local function most_waiting(limit)
  return part_of(settings().max_pending or limit, settings().partitions)
end

-- The pace of hand-outs: a leaky bucket by its theoretical arrival time (GCRA). Returns the ms that one task takes, the
-- ms that may be taken at once, and the arrival time.
local function pace(now)
  local rate = settings().rate_per_second
  local step = 1000 / rate
  return step, math.max(1, math.floor(rate * PACE_BURST_SECONDS)) * step,
    math.max(now, tonumber(redis.call('GET', PACE) or 0) or 0)
end

-- How many tasks may be handed out now, and when more may be (unix ms; 0: not by time alone).
local function room(now)
  local set = settings()
  if not set.governed then return 2 ^ 31, 0 end
  if set.paused_until_ms > now then return 0, set.paused_until_ms end
  local free, at = 2 ^ 31, 0
  if set.max_processing then free = set.max_processing - redis.call('ZCOUNT', QUEUE, LEASED, '+inf') end
  if set.rate_per_second and free > 0 then
    local step, burst, arrival = pace(now)
    local paced = math.floor((burst - (arrival - now)) / step + 1e-3)
    if paced < free then free, at = paced, math.ceil(arrival - burst + step) end
  end
  return math.max(free, 0), at
end

-- Note that so many tasks were handed out.
local function spend(now, tasks)
  if tasks == 0 or not settings().rate_per_second then return end
  local step, _, arrival = pace(now)
  arrival = arrival + tasks * step
  redis.call('SET', PACE, string.format('%.17g', arrival), 'PX', math.ceil(arrival - now) + 1000)
end

-- The fixed header that the gateway writes first into a job's body; plain arq bodies have none and get defaults.
local function has_options(body) return #body > 25 and string.sub(body, 2, 5) == '\161o\196\20' end

local function options_of(body)
  if not has_options(body) then
    return { priority = 2, max_attempts = 25, lease_ms = 30000, timeout_ms = 0,
      retention_ms = 86400000, failed_retention_ms = 2592000000, expires = false, unique = nil, key = nil }
  end
  local priority, max_attempts, lease_ms, timeout_ms, retention_ms, failed_retention_ms, flags =
    struct.unpack('>BHI4I4I4I4B', body, 6)
  local o = { priority = priority, max_attempts = max_attempts, lease_ms = lease_ms, timeout_ms = timeout_ms,
    retention_ms = retention_ms, failed_retention_ms = failed_retention_ms, expires = flags % 2 == 1 }
  local keyed, at = flags >= 8, 25
  if keyed then flags = flags - 8 end
  if flags >= 2 then
    o.until_started = flags >= 4
    local ok, past, key = pcall(cmsgpack.unpack_one, body, at + 2)
    if ok and type(key) == 'string' then o.unique, at = key, past end
  end
  if keyed then
    local ok, _, key = pcall(cmsgpack.unpack_one, body, at + 2)
    o.key = ok and type(key) == 'string' and key or nil
  end
  return o
end

-- Let go of a task's unique key, if it still holds it.
local function release_unique(id, options)
  if options.unique and redis.call('GET', UNIQUE .. options.unique) == id then
    redis.call('DEL', UNIQUE .. options.unique)
  end
end

-- Whether a body is arq's dict. One with our header is believed; what is wrong behind it shows when it is handed out.
local function is_job(body)
  local head = string.byte(body, 1) or 0
  if head <= 0x80 or head > 0x8f then return false end
  if has_options(body) then return true end
  local ok, job = pcall(cmsgpack.unpack, body)
  -- Redis cannot read all of msgpack (bin, ext); the gateway can, and ends what is no job.
  if not ok then return true end
  return type(job) == 'table' and type(job.f) == 'string' and type(job.a) == 'table'
    and type(job.k) == 'table' and type(job.et) == 'number'
end

local function empty_job(made)
  return '\133\161t\192\161f' .. cmsgpack.pack(TAG) .. '\161a\144\161k\128\162et' .. cmsgpack.pack(made)
end

local function rank(priority, sequence) return priority * PRIORITY_WIDTH + sequence / SEQUENCE_STEP end

local function next_sequence(count) return redis.call('INCRBY', SEQ, count) - count end

local function to_ready(id, priority)
  redis.call('ZADD', QUEUE, rank(priority, next_sequence(1) + 1), id)
end

local function due_score(priority, due)
  return due + (priority == 2 and 0 or priority == 3 and 0.75 or (priority + 1) / 4)
end

local function to_due(id, priority, due) redis.call('ZADD', QUEUE, due_score(priority, due), id) end

-- Outcomes of this call, added to the queue's totals once at its end.
local finished, totals = {}, {}
local function count(name, number) totals[name] = (totals[name] or 0) + (number or 1) end

-- The size of a record, rounded up to 7 bits of precision, and as a fraction: the score of `expiry` carries it, so that
-- what is forgotten is taken off the queue's bytes exactly as it was added.
local function sized(bytes)
  local exponent = 0
  while bytes > 128 do bytes, exponent = math.ceil(bytes / 2), exponent + 1 end
  bytes = math.max(bytes, 1)
  return bytes * 2 ^ exponent, (exponent * 128 + bytes - 1) / 4096
end

local function size_in(score)
  local code = (score % 1) * 4096
  return (code % 128 + 1) * 2 ^ math.floor(code / 128)
end

-- Keep what a plain arq producer made: its body must not expire while it waits, and lists must show it.
local function adopt(id, body)
  if body then
    redis.call('PERSIST', JOB .. id)
    if redis.call('ZADD', LIVE, 0, entry_of(id, body)) == 1 then count('bytes', #body) end
  end
end

-- Concurrency keys: at most so many tasks of one key run at a time. The set of a key holds those that run; what is
-- ready besides is held back, and the first of it becomes ready when one that ran has ended.
local unheld = 0
local function hold(id, score, key)
  redis.call('ZADD', HELDBY .. key, score, id)
  redis.call('ZADD', QUEUE, HELD, id)
end

local function unhold(key)
  if redis.call('SCARD', RUNNING .. key) >= settings().max_processing_per_key then return end
  local first = redis.call('ZPOPMIN', HELDBY .. key)
  if first[1] then
    redis.call('ZADD', QUEUE, first[2], first[1])
    unheld = unheld + 1
  end
end

-- A task of this key runs no more.
local function let_go(id, key)
  if key and redis.call('SREM', RUNNING .. key, id) == 1 then unhold(key) end
end

-- A task of this key that has no lease is placed anew, or gone. It may have been the one that was to run next.
local function drop_hold(id, key)
  if not key then return end
  redis.call('ZREM', HELDBY .. key, id)
  redis.call('SREM', RUNNING .. key, id)
  unhold(key)
end

-- Tasks whose time has come join the ready ones, in the order of their due times. Returns how many.
local function promote(now, limit)
  local due = redis.call('ZRANGEBYSCORE', QUEUE, READY_END, exclusive(math.min(now + 1, HELD)), 'WITHSCORES', 'LIMIT', 0, limit)
  local count = #due / 2
  if count == 0 then return 0 end
  local sequence = next_sequence(count)
  for i = 1, count do
    local id, score = due[2 * i - 1], tonumber(due[2 * i])
    -- What was made here never expires while it waits; a plain arq producer may have chosen an id like ours.
    if not is_native(id) or redis.call('PERSIST', JOB .. id) == 1 then adopt(id, fetch(JOB .. id)) end
    local fraction = score % 1
    local priority = fraction == 0.25 and 0 or fraction == 0.5 and 1 or fraction == 0.75 and 3 or 2
    redis.call('ZADD', QUEUE, rank(priority, sequence + i), id)
  end
  return count
end

local function ready_count() return redis.call('ZCOUNT', QUEUE, '-inf', exclusive(READY_END)) end
local function waiting_count() return redis.call('ZCOUNT', QUEUE, '-inf', exclusive(LEASED)) end

-- Ring as many waiting gateways as `ready` tasks need, the one with the longest waiting poll first; fewer when fewer may
-- be handed out. A registration is used up by its ring. Returns how many tasks the asking gateway should claim itself.
local function ring(now, ready, gateway)
  local mine = 0
  ready, unheld = math.min(ready + unheld, (room(now))), 0
  while ready > 0 do
    local longest = redis.call('ZRANGE', WAITING, 0, 0)[1]
    if not longest then break end
    local wants, since = string.match(redis.call('HGET', WANTS, longest) or '0:0', '^(%d+):(%d+)$')
    wants, since = tonumber(wants), tonumber(since)
    redis.call('ZREM', WAITING, longest)
    redis.call('HDEL', WANTS, longest)
    if wants > 0 and now - since < REGISTRATION_MS then
      local share = math.min(wants, ready)
      if longest == gateway then
        mine, ready = mine + share, ready - share
      elseif redis.call(PUBLISH, RING .. longest .. RING_END, 'ready ' .. share .. ' ' .. TAG) > 0 then
        ready = ready - share
      end -- else it is gone without a word: the next one is rung instead
    end
  end
  return mine
end

-- The lease that a record holds; nil when it cannot be read.
local function lease_in(raw)
  local ok, lease = pcall(cmsgpack.unpack, raw)
  if ok and type(lease) == 'table' and type(lease[TOKEN]) == 'string' and lease[TRAILED] ~= nil then return lease end
  return nil
end

-- The lease of a task; nil when there is none, or none that can be read.
local function lease_of(id)
  local raw = fetch(PROGRESS .. id)
  return raw and lease_in(raw)
end

-- Attempts so far, as far as that is a number.
local function attempts_in(raw)
  local attempts = tonumber(raw or 0)
  if not attempts or attempts < 0 or attempts > 1000000 or attempts % 1 ~= 0 then return 0 end
  return attempts
end

local function attempts_of(id) return attempts_in(fetch(RETRY .. id)) end

-- Whether a task that is not final is of this queue: one made here says so by its id, any other stands in the queue.
local function ours(id) return is_native(id) or redis.call('ZSCORE', QUEUE, id) end

-- The guard of every report. Returns the lease when `token` holds it now, otherwise nil. lease: if it was read already.
local function held(id, token, now, lease)
  lease = lease or ours(id) and lease_of(id)
  if not lease or lease[TOKEN] ~= token then return nil end
  if now > lease[ENDS] then return nil end
  return lease
end

-- The record of a finished task of this queue. An id that a plain arq producer chose does not tell its queue; the record
-- does, at its end, where nothing stands that a payload or a result could say.
local function record_of(id)
  local record = fetch(RESULT .. id)
  if not record or is_native(id) then return record end
  local stop = #record
  if string.sub(record, -11, -9) == '\161z\207' then
    local _, facts_bytes = struct.unpack('>I4I2', string.sub(record, -8))
    stop = #record - 11 - facts_bytes - 5
  end
  local sign = '\161q' .. cmsgpack.pack(QUEUE) .. '\162id' .. cmsgpack.pack(id)
  return string.sub(record, stop - #sign + 1, stop) == sign and record or nil
end

-- The facts of a finished task, from the end of its record: {status, token, attempt, worker, started, finished, code}.
-- nil: the record is none of ours.
local function facts_of(record)
  if string.sub(record, -11, -9) ~= '\161z\207' then return nil end
  local tail_bytes, facts_bytes, tail_pairs = struct.unpack('>I4I2I2', string.sub(record, -8))
  local stop = #record - 11
  return cmsgpack.unpack(string.sub(record, stop - facts_bytes + 1, stop)), tail_bytes, tail_pairs
end

-- The job's own bytes, out of the record of a finished task; nil: the record is none of ours.
local function body_in(record)
  local facts, tail_bytes, tail_pairs = facts_of(record)
  if not facts then return nil end
  local pairs_count = struct.unpack('>H', record, 2) - tail_pairs
  return string.char(0x80 + pairs_count) .. string.sub(record, 4, #record - tail_bytes)
end

-- The name of a finished task in the lists.
local function entry_in(id, record) return entry_of(id, not is_native(id) and body_in(record) or nil) end

-- What a token that holds no lease may still hear: the answer it already got. Returns a word and the due time.
local function replay(id, token, verb, words)
  local record = record_of(id)
  local facts = record and facts_of(record)
  if facts and facts[2] == token and words[facts[1]] then return facts[1], 0, facts[4] end
  local body = not record and ours(id) and fetch(JOB .. id)
  if not record and not body then return 'missing', 0, '' end
  local last = redis.call('HGET', TRAIL .. (body and entry_of(id, body) or entry_in(id, record)), 'last')
  if last then
    last = cmsgpack.unpack(last)
    if last[1] == token and last[5] == verb and words[last[2]] then return last[2], last[3], last[4] end
  end
  return 'lost', 0, ''
end

-- As `ring`, after leases ended: that may have made room for what was ready before.
local function ring_after(now, ready, gateway)
  if settings().max_processing then return ring(now, ready_count() - unheld, gateway) end
  if ready + unheld > 0 then return ring(now, ready, gateway) end
  return 0
end

-- What `finish` writes for many tasks of one status at once.
local function gather_ends(status)
  return { status = status, keys = {}, ids = {}, entries = {}, listed = {}, expiry = {} }
end

local function write_ends(gathered)
  call_all(gathered.keys, 'DEL')
  call_all(gathered.ids, 'ZREM', QUEUE)
  call_all(gathered.entries, 'ZREM', LIVE)
  call_all(gathered.listed, 'ZADD', final_list(gathered.status))
  call_all(gathered.expiry, 'ZADD', EXPIRY)
end

-- The only door to a final state: write arq's result (the job's own pairs, then ours), take the task off the queue,
-- list it under its status, and let everything about it expire with it.
--   pairs, pairs_count: msgpack map pairs `s`, `r` and the raw JSON `j` or `e`
--   gathered: from `gather_ends`; what can be written for many tasks at once waits for `write_ends`, and until then must
--   not be read. For leased tasks that were made here and whose body is at hand.
local function finish(now, id, status, lease, pairs, pairs_count, body, code, gathered)
  if CLUSTER and string.match(id, '{[^}]*}') ~= TAG then
    -- A plain arq producer chose an id whose keys belong to other slots: it cannot be a task here.
    redis.call('ZREM', QUEUE, id)
    return
  end
  body = body or fetch(JOB .. id)
  local entry = entry_of(id, body)
  local job = (body and is_job(body)) and body or empty_job(is_native(id) and 0 or made_at(body))
  local options = options_of(job)
  local attempts = lease and lease[ATTEMPT] or attempts_of(id)
  -- Where the gateway itself ended the task (`code`), no report did: its last worker's, late, must not sound accepted.
  local token = lease and not code and lease[TOKEN] or ''
  local facts = '\151' .. cmsgpack.pack(status, token, attempts, lease and lease[WORKER] or '',
    lease and lease[STARTED] or 0, now, code or '')
  local tail = pairs
    .. cmsgpack.pack('t', attempts, 'st', lease and lease[STARTED] or now, 'ft', now, 'q', QUEUE, 'id', id)
    .. '\161x\197' .. struct.pack('>H', #facts) .. facts
  local record = '\222' .. struct.pack('>H', string.byte(job, 1) - 0x80 + pairs_count + 7) .. string.sub(job, 2)
    .. tail .. '\161z\207' .. struct.pack('>I4I2I2', #tail + 11, #facts, pairs_count + 7)
  local size, fraction = sized(#record)
  local ttl = math.max(status == 'failed' and options.failed_retention_ms or options.retention_ms, MIN_RECORD_TTL_MS)
  redis.call('SET', RESULT .. id, record, 'PX', ttl)
  local expires_at = now + ttl - 1 + fraction
  if gathered then
    -- What was made here is listed from its enqueue on.
    size = size - #body
    local n, keys, listed, expiry = #gathered.ids, gathered.keys, gathered.listed, gathered.expiry
    gathered.ids[n + 1], gathered.entries[n + 1] = id, entry
    keys[3 * n + 1], keys[3 * n + 2], keys[3 * n + 3] = JOB .. id, PROGRESS .. id, RETRY .. id
    listed[2 * n + 1], listed[2 * n + 2] = '0', entry
    expiry[2 * n + 1], expiry[2 * n + 2] = expires_at, final_mark(status) .. entry
  else
    redis.call('DEL', JOB .. id, PROGRESS .. id, RETRY .. id)
    redis.call('ZREM', QUEUE, id)
    if redis.call('ZREM', LIVE, entry) == 1 and body then size = size - #body end
    redis.call('ZADD', final_list(status), 0, entry)
    redis.call('ZADD', EXPIRY, expires_at, final_mark(status) .. entry)
  end
  count('bytes', size)
  if lease then let_go(id, lease[KEY]) else drop_hold(id, options.key) end
  if options.expires then redis.call('ZREM', EXPIRES, id) end
  release_unique(id, options)
  -- A first attempt may have a trail, too: of a release, or from before an operator's retry.
  local trailed = lease and lease[TRAILED]
  if not (lease and lease[FRESH] and not trailed) and (redis.call('PEXPIRE', TRAIL .. entry, ttl) == 1 or trailed) then
    redis.call('PEXPIRE', LOG .. entry, ttl)
  end
  finished[#finished + 1] = id
  count(status)
end

-- Forget a final or waiting task for good. body: of one that waits; record: of one that is final.
local function forget(id, body, record)
  local entry = body and entry_of(id, body) or entry_in(id, record)
  if body and is_job(body) then
    local options = options_of(body)
    release_unique(id, options)
    drop_hold(id, options.key)
  end
  for status, list in pairs(SET_OF) do
    local sign = final_mark(status) .. entry
    local score = redis.call('ZSCORE', EXPIRY, sign)
    if score then count('bytes', -size_in(tonumber(score))) end
    redis.call('ZREM', list, entry)
    redis.call('ZREM', EXPIRY, sign)
  end
  redis.call('ZREM', QUEUE, id)
  if redis.call('ZREM', LIVE, entry) == 1 and body then count('bytes', -#body) end
  redis.call('ZREM', EXPIRES, id)
  redis.call('DEL', JOB .. id, RESULT .. id, RETRY .. id, TRAIL .. entry, LOG .. entry)
  count('deleted')
  finished[#finished + 1] = id
end

-- msgpack pairs of an outcome that the script itself decides: a JSON error and its text.
local function failure_pairs(kind, message)
  return '\161s\194\161r' .. cmsgpack.pack(kind .. ': ' .. message)
    .. '\161e' .. cmsgpack.pack('{"type":"' .. kind .. '","message":"' .. message .. '"}'), 3
end

-- One line of a task's history; `brief` is the error as short JSON, or ''.
local function remember(id, entry, lease, now, outcome, brief)
  redis.call('HSET', TRAIL .. entry, 'h' .. lease[ATTEMPT] .. ':' .. lease[STARTED],
    cmsgpack.pack({ lease[ATTEMPT], lease[WORKER], lease[STARTED], now, outcome, brief }))
end

-- Every verb ends here: tell who waits for these outcomes, add up the totals, ring for what is held back no more.
local function settle(now)
  if unheld > 0 then ring(now, 0, '') end
  for name, number in pairs(totals) do redis.call('HINCRBY', TOTALS, name, number) end
  if #finished > 0 and redis.call('EXISTS', WATCH) == 1 then
    local gone = {}
    for _, id in ipairs(finished) do gone[id] = true end
    for _, watcher in ipairs(redis.call('SMEMBERS', WATCH)) do
      local gateway, id = string.match(watcher, '^(%S+) (.*)$')
      if gone[id] then
        redis.call(PUBLISH, RING .. gateway .. RING_END, 'final ' .. id)
        redis.call('SREM', WATCH, watcher)
      end
    end
  end
end

-- A task as read.lua returns it.
local function snapshot(id, with_log)
  local place = redis.call('ZSCORE', QUEUE, id)
  local body = (place or is_native(id)) and fetch(JOB .. id)
  local record = not body and record_of(id)
  if not body and not record then return {} end
  local entry = body and entry_of(id, body) or entry_in(id, record)
  return { id, place or '', body or record, attempts_of(id), fetch(PROGRESS .. id) or '',
    redis.call('HGETALL', TRAIL .. entry), with_log and redis.call('LRANGE', LOG .. entry, 0, -1) or {} }
end
