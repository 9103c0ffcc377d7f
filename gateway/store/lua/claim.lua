-- Hand ready tasks to polls: highest priority first, FIFO inside it. Moves each task to the leased band.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, other polls that wait here, ms that the oldest waiting poll has waited, count, then per poll:
--       worker, poll_id ('' none), max (0: only what the poll_id got before), lease_ms (0: the task's own), token seed,
--       stays (1: it waits when it gets nothing, so this gateway wants to be rung)
-- Returns: 'ok', now, ready tasks left that may be handed out, registered (0/1), next alarm (the first end of a lease
--          given, or when a paused or paced queue may go on; 0: none), tasks that failed instead, partitions of the
--          queue that may hold tasks, then per poll a list of tasks: id, body, attempt, lease_ms, token number,
--          trail (flat hash), started; 1 instead where max is 0 and the poll_id was not heard of here before
-- A poll_id that already got tasks gets the same leases again while they live. That it was asked for stands here, too,
-- where max is 0: then it may have got tasks of another queue.
local now, gateway = clock(ARGV[1]), ARGV[2]
local others, waited_ms, polls = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
allow_when_full()

local wanted = 0
for p = 0, polls - 1 do wanted = wanted + tonumber(ARGV[8 + p * 6]) end
promote(now, math.min(wanted + 100, 1000))

-- Leases are written together: before anything is read that they change, and at the end.
local records, places = {}, {}
local function write_leases()
  if #places == 0 then return end
  call_all(records, 'MSET')
  call_all(places, 'ZADD', QUEUE)
  records, places = {}, {}
end

-- What one call may hold back: the next call goes on where this one stopped.
local MOST_HOLDS = 500
-- The next ready tasks are read so many at a time, with their bodies and attempts.
local LINE = 200
local line, place, drained, found, trails = {}, 0, false, {}, 0
local function read_line(most)
  write_leases()
  most = math.max(math.min(most, LINE), 1)
  line, place = redis.call('ZRANGEBYSCORE', QUEUE, '-inf', exclusive(READY_END), 'WITHSCORES', 'LIMIT', 0, most), 0
  drained = #line < 2 * most
  if #line == 0 then return end
  local keys, paths = {}, {}
  for i = 1, #line, 2 do
    keys[i], keys[i + 1] = JOB .. line[i], RETRY .. line[i]
  end
  found = fetch_all(keys)
  for i = 1, #line, 2 do paths[#paths + 1] = TRAIL .. entry_of(line[i], found[i]) end
  trails = call_all(paths, 'EXISTS')
end

local function next_ready(most)
  if place >= #line then
    if drained then return nil end
    read_line(most)
    if #line == 0 then return nil end
  end
  place = place + 2
  return line[place - 1], tonumber(line[place]), found[place - 1] or nil, found[place]
end

-- What earlier attempts left behind; a released or redriven task has a first attempt again, and yet a past.
local function trail_of(id, body)
  return redis.call('HGETALL', TRAIL .. entry_of(id, body))
end

-- A public id is the job_type, two marks and the id in base64; a worker could not report on a longer one.
local function nameable(id)
  local job_type = string.match(TAG, ':(.*)}$')
  return is_native(id) or #job_type + 2 + math.ceil(#id * 4 / 3) <= MAX_ID_CHARS
end

local first_end, holds = 0, 0
local free, resumes_at = room(now)
-- Returns the task's reply and token, or nil when it could not be handed out (it is then final, or held back).
local function lease(id, score, body, attempts, worker, lease_ms, seed, number)
  if not body or not is_job(body) or not nameable(id) then
    local reason = not body and 'the job body is gone' or nameable(id) and 'the job body is not msgpack'
      or 'the job id is too long'
    local text, n = failure_pairs('corrupt', reason)
    finish(now, id, 'failed', nil, text, n, body, 'corrupt')
    return nil
  end
  if not has_options(body) then adopt(id, body) end
  local options, expires_at = options_of(body), false
  if options.expires then
    expires_at = redis.call('ZSCORE', EXPIRES, id)
    if expires_at and tonumber(expires_at) <= now then
      local text, n = failure_pairs('expired', 'not started in time')
      finish(now, id, 'failed', nil, text, n, body, 'expired')
      return nil
    end
  end
  if options.key then
    if redis.call('SCARD', RUNNING .. options.key) >= settings().max_processing_per_key then
      hold(id, score, options.key)
      holds = holds + 1
      return nil
    end
    redis.call('SADD', RUNNING .. options.key, id)
  end
  if expires_at then redis.call('ZREM', EXPIRES, id) end
  if options.until_started then release_unique(id, options) end
  local attempt = attempts_in(attempts) + 1
  if lease_ms == 0 then lease_ms = options.lease_ms end
  local deadline, ends = 0, now + lease_ms
  if options.timeout_ms > 0 then
    deadline = now + options.timeout_ms
    ends = math.min(ends, deadline)
  end
  local token = number == 0 and seed or seed .. '.' .. number
  local trail = trails > 0 and trail_of(id, body) or {}
  local record = '\159' .. cmsgpack.pack(token, now, lease_ms, score, worker, attempt, options.max_attempts, deadline,
    ends, options.priority, false, false, options.key or false, expires_at and tonumber(expires_at), #trail == 0)
  local last = #records
  records[last + 1], records[last + 2], records[last + 3], records[last + 4] = PROGRESS .. id, record, RETRY .. id, attempt
  last = #places
  places[last + 1], places[last + 2] = LEASED + ends, id
  if first_end == 0 or ends < first_end then first_end = ends end
  return { id, body, attempt, ends - now, number, trail, now }, token
end

-- The leases that this poll_id already got and that still live, or nil.
local function recall(key, raw)
  if not raw then return nil end
  write_leases()
  local tasks, record = {}, cmsgpack.unpack(raw)
  for _, given in ipairs(record.given) do
    local holder = held(given[1], given[2], now)
    local body = holder and fetch(JOB .. given[1])
    if body then
      tasks[#tasks + 1] = { given[1], body, holder[ATTEMPT], holder[ENDS] - now, given[2],
        trail_of(given[1], body), holder[STARTED] }
    end
  end
  if #tasks == 0 then return nil end
  record.recalled = true
  redis.call('SET', key, cmsgpack.pack(record), 'KEEPTTL')
  return tasks
end

-- What the poll_ids of this call got before.
local polled, before = {}, {}
for p = 0, polls - 1 do
  if ARGV[7 + p * 6] ~= '' then polled[#polled + 1] = POLL .. ARGV[6 + p * 6] .. ' ' .. ARGV[7 + p * 6] end
end
for i, raw in ipairs(fetch_all(polled)) do before[polled[i]] = raw end

local reply, unserved, handed = { 'ok', now, 0, 0, 0, 0, settings().spread }, others, 0
for p = 0, polls - 1 do
  local base = 6 + p * 6
  local worker, poll_id, max = ARGV[base], ARGV[base + 1], tonumber(ARGV[base + 2])
  local key = poll_id ~= '' and POLL .. worker .. ' ' .. poll_id
  local tasks = key and recall(key, before[key]) or nil
  if not tasks then
    tasks = {}
    local given, longest = {}, 0
    while #tasks < math.min(max, free) and holds < MOST_HOLDS do
      local id, score, body, attempts = next_ready(math.min(wanted - handed - #tasks, free - #tasks))
      if not id then break end
      local task, token = lease(id, score, body, attempts, worker, tonumber(ARGV[base + 3]), ARGV[base + 4], #tasks)
      -- One that failed here let another of its key go, which may stand before the rest of the line.
      if unheld > 0 then line, place, drained, unheld = {}, 0, false, 0 end
      if task then
        tasks[#tasks + 1] = task
        given[#given + 1] = { id, token }
        longest = math.max(longest, task[4])
      end
    end
    free, handed = free - #tasks, handed + #tasks
    if key and max == 0 and not before[key] then
      before[key], tasks = cmsgpack.pack({ recalled = false, given = {} }), 1
      local lease_ms = tonumber(ARGV[base + 3])
      redis.call('SET', key, before[key], 'PX', (lease_ms > 0 and lease_ms or 30000) + 60000)
    elseif key and #tasks > 0 then
      before[key] = cmsgpack.pack({ recalled = false, given = given })
      redis.call('SET', key, before[key], 'PX', longest + 60000)
    end
  end
  if (tasks == 1 or #tasks == 0) and ARGV[base + 5] == '1' then unserved = unserved + 1 end
  reply[8 + p] = tasks
end

write_leases()
spend(now, handed)
if free <= 0 then free, resumes_at = room(now) end
-- Who read the line to its end knows that there is nothing left.
reply[3] = free > 0 and not (drained and place >= #line) and ready_count() or 0
if unserved > 0 and reply[3] == 0 then
  redis.call('ZADD', WAITING, now - waited_ms, gateway)
  redis.call('HSET', WANTS, gateway, unserved .. ':' .. now)
  redis.call('PEXPIRE', WAITING, REGISTRATION_MS)
  redis.call('PEXPIRE', WANTS, REGISTRATION_MS)
  reply[4] = 1
end
-- Who took the last of what may be handed out now looks again when there may be more.
if free <= 0 and resumes_at > 0 and (first_end == 0 or resumes_at < first_end) then first_end = resumes_at - 1 end
reply[5], reply[6] = first_end, totals.failed or 0
settle(now)
return reply
