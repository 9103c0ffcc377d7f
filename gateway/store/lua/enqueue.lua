-- Store tasks and ring gateways that have polls waiting. A task refused leaves no trace; repeating a call is safe.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now (unix ms or ''), gateway, limit (waiting tasks, unless the queue has its own), version of the queue's
--       settings that these tasks were made by, count, then per task:
--       id, priority (0..3), due ('' now, '+ms' from now, or unix ms), expires_in_ms (0: never),
--       group (how many tasks from here on stand or fall together, 0: already counted), body (without its time),
--       unique ('' none, or msgpack {key, ms that it holds (0: as the body says), on_conflict})
-- Returns: 'ok', now, tasks for this gateway to claim, waiting tasks with these, then per task: its due time (0: ready
--          at once), -1 when full, -2 when another of its group was refused, or '<word> <id>' of the task that holds its
--          unique key; word: existing, replaced, conflict
--          Or 'stale', now: the settings have another version.
local now, gateway, total = clock(ARGV[1]), ARGV[2], tonumber(ARGV[5])
if settings().version ~= tonumber(ARGV[4]) then return { 'stale', now } end
local limit = most_waiting(tonumber(ARGV[3]))
local ARGS = 7
local depth = waiting_count()
local reply = { 'ok', now, 0, depth }
local function argument(i, place) return ARGV[5 + (i - 1) * ARGS + place] end

-- Nothing of these tasks is stored yet, unless the reply to an earlier call was lost.
local ids, keys, known, repeated = {}, {}, {}, false
for i = 1, total do
  local id = argument(i, 1)
  ids[i], keys[2 * i - 1], keys[2 * i] = id, JOB .. id, RESULT .. id
  if known[id] then repeated = true end
  known[id] = true
end
if call_all(keys, 'EXISTS') > 0 then repeated = true end
local function stored(i) return repeated and redis.call('EXISTS', keys[2 * i - 1], keys[2 * i]) > 0 end

-- Who holds unique keys, with what this call gives out.
local holders = {}
local function holder_of(key)
  if holders[key] == nil then
    local id = redis.call('GET', UNIQUE .. key)
    -- Within its time a key stands for a finished task, too; one without a task is nobody's.
    if id and redis.call('EXISTS', JOB .. id, RESULT .. id) == 0 then id = false end
    holders[key] = id
  end
  return holders[key]
end

-- What a unique key says of a task: nothing, or a word and who holds it.
local given = {}
local function held_by(i)
  -- A task that an earlier call stored stays stored, whoever holds its key by now.
  if stored(i) then return nil end
  local unique = cmsgpack.unpack(argument(i, 7))
  local key, on_conflict = unique[1], unique[3]
  local holder = holder_of(key)
  if not holder then return nil, nil, key end
  local place = redis.call('ZSCORE', QUEUE, holder)
  -- One that this call is about to store waits, too.
  local waits = given[holder] or place and tonumber(place) < LEASED and fetch(JOB .. holder)
  if on_conflict == 'replace' and waits then return 'replaced', holder end
  -- This very task took the holder's place, by a call whose reply was lost, and a worker was quick.
  if on_conflict == 'replace' and redis.call('HGET', TRAIL .. entry_of(holder), 'by') == ids[i] then
    return 'existing', holder
  end
  return on_conflict == 'return' and 'existing' or 'conflict', holder
end

-- A call repeated after its reply was lost finds its own tasks, final ones perhaps: they need no room.
local taken, accepted, examined = depth, {}, 0
local function fits(room, first, last)
  if room == 0 or taken + room <= limit then return true, room end
  for i = examined + 1, last do
    if accepted[i] and stored(i) then
      if i < first then taken = taken - 1 else room = room - 1 end
    end
  end
  examined = last
  return room == 0 or taken + room <= limit, room
end

local replaced, any, first = {}, false, 1
while first <= total do
  local group = math.max(tonumber(argument(first, 5)), 1)
  local last, room, together, before = first + group - 1, 0, true, nil
  for i = first, last do
    local id, word, holder, key = ids[i], nil, nil, nil
    if argument(i, 7) ~= '' then word, holder, key = held_by(i) end
    if word then
      reply[4 + i] = word .. ' ' .. holder
      if word == 'replaced' then replaced[i] = holder end
      if word == 'conflict' then together = false end
    else
      local due, at = argument(i, 3), 0
      if due ~= '' then
        at = string.sub(due, 1, 1) == '+' and now + tonumber(string.sub(due, 2)) or tonumber(due)
        if at <= now then at = 0 end
        -- A call repeated after its reply was lost tells when its task is due, not when it would be if it came now.
        local stands = at > 0 and repeated and tonumber(redis.call('ZSCORE', QUEUE, id) or '')
        if stands then
          at = stands >= READY_END and stands < LEASED and math.floor(stands) or 0
        elseif at > 0 and repeated and redis.call('EXISTS', RESULT .. id) == 1 then
          at = 0
        end
      end
      reply[4 + i], accepted[i], room = at, true, room + 1
      if key then
        before = before or {}
        before[#before + 1] = { key, holders[key], id }
        holders[key], given[id] = id, true
      end
    end
  end
  local enough
  enough, room = fits(room, first, last)
  if enough and (together or group == 1) then
    taken = taken + room
    for i = first, last do any = any or accepted[i] or replaced[i] or false end
  else
    -- All or none: keys that others of the group were to hold are free again.
    for step = before and #before or 0, 1, -1 do
      holders[before[step][1]], given[before[step][3]] = before[step][2], nil
    end
    for i = first, last do
      local conflict = type(reply[4 + i]) == 'string' and string.sub(reply[4 + i], 1, 8) == 'conflict'
      if accepted[i] or group > 1 and not conflict then reply[4 + i] = together and -1 or -2 end
      accepted[i], replaced[i] = nil, nil
    end
  end
  first = last + 1
end
reply[4] = taken
if not any then return reply end

promote(now, 200)
local sequence = next_sequence(total)
local stamp = cmsgpack.pack(now)
local ready = 0

-- A key that ends by time is let go by Redis, any other by the script that ends it.
local function take_key(id, unique)
  unique = cmsgpack.unpack(unique)
  local key, for_ms = unique[1], unique[2]
  if for_ms > 0 then
    redis.call('SET', UNIQUE .. key, id, 'PX', for_ms)
  else
    redis.call('SET', UNIQUE .. key, id)
  end
end

-- What takes the place of a waiting task takes over its attempts, and has one more at least.
local function with_an_attempt_left(body, attempts)
  if attempts < struct.unpack('>H', body, 7) then return body end
  return string.sub(body, 1, 6) .. struct.pack('>H', attempts + 1) .. string.sub(body, 9)
end

-- New tasks are written together: before anything is read of them, and at the end.
local bodies, places, entries = {}, {}, {}
local function write_tasks()
  call_all(bodies, 'MSET')
  call_all(places, 'ZADD', QUEUE)
  call_all(entries, 'ZADD', LIVE)
  bodies, places, entries = {}, {}, {}
end

local function place(id, i, at)
  local score
  if at > 0 then
    score = due_score(tonumber(argument(i, 2)), at)
  else
    score = rank(tonumber(argument(i, 2)), sequence + i)
    ready = ready + 1
  end
  local last = #places
  places[last + 1], places[last + 2] = score, id
end

local enqueued, bytes = 0, 0
for i = 1, total do
  local expires_in_ms, unique = argument(i, 4), argument(i, 7)
  if accepted[i] then
    local id = ids[i]
    if repeated then write_tasks() end
    if not stored(i) then
      local body, last = argument(i, 6), #bodies
      bodies[last + 1], bodies[last + 2] = keys[2 * i - 1], body .. stamp
      place(id, i, reply[4 + i])
      entries[last + 1], entries[last + 2] = '0', entry_of(id)
      if expires_in_ms ~= '0' then redis.call('ZADD', EXPIRES, now + tonumber(expires_in_ms), id) end
      if unique ~= '' then take_key(id, unique) end
      enqueued, bytes = enqueued + 1, bytes + #body + #stamp
    end
  elseif replaced[i] then
    -- The waiting task keeps its id and its time of creation, and gets the rest.
    write_tasks()
    local id, due, at = replaced[i], argument(i, 3), 0
    if due ~= '' then at = string.sub(due, 1, 1) == '+' and now + tonumber(string.sub(due, 2)) or tonumber(due) end
    local before = redis.call('GET', JOB .. id)
    local made = string.sub(before, -#stamp)
    drop_hold(id, options_of(before).key)
    count('bytes', #argument(i, 6) + #made - #before)
    redis.call('SET', JOB .. id, with_an_attempt_left(argument(i, 6), attempts_of(id)) .. made)
    if unique ~= '' then take_key(id, unique) end
    place(id, i, at > now and at or 0)
    redis.call('HSET', TRAIL .. entry_of(id), 'due', math.max(at, now), 'by', ids[i])
    redis.call('ZREM', EXPIRES, id)
    if expires_in_ms ~= '0' then redis.call('ZADD', EXPIRES, now + tonumber(expires_in_ms), id) end
    count('replaced')
  end
end
write_tasks()
if enqueued > 0 then
  count('enqueued', enqueued)
  count('bytes', bytes)
end
if ready > 0 then reply[3] = ring(now, ready, gateway) end
settle(now)
return reply
