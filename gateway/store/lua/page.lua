-- Names of a queue's tasks in some states, from one place down, as they stand at one moment. Writes nothing.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, before (list entry, exclusive), after (list entry, inclusive), limit (of each list), examine (how many live
--       tasks to look at, about), then per state: its name
-- Returns: 'ok', now, live tasks looked at, then per list with tasks in these states: {rest, entries ..}
--          rest: this list was looked through down to this entry; '': to its end. Entries are newest first; with a rest
--          of '' they may be in any order, and some beyond the places that were asked for.
local now, before, after, limit, examine = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
-- What a task takes, against one that is met in the list: if it is met in its band; if its attempts are read, too; if a
-- plain arq producer made it.
local IN_A_BAND, WITH_ATTEMPTS, FOREIGN = 1 / 4, 1, 4
local CHUNK = 500
local wanted, looked = {}, 0
for i = 6, #ARGV do wanted[ARGV[i]] = true end
local later = wanted.scheduled or wanted.retrying
local by_attempts = later and not (wanted.scheduled and wanted.retrying)
local due_from = math.max(math.min(now + 1, HELD), READY_END)

local function newest(list, from, count)
  return redis.call('ZREVRANGEBYLEX', list, '(' .. from, '[' .. after, 'LIMIT', 0, count)
end

local function top_of(list)
  local found = newest(list, before, limit)
  table.insert(found, 1, found[limit] or '')
  return found
end

-- Whether a task that is not due yet is in a wanted state.
local function waits_so(id)
  if not by_attempts then return later end
  looked = looked + WITH_ATTEMPTS
  return (attempts_of(id) > 0) == (wanted.retrying or false)
end

local function is_wanted(id)
  local place = tonumber(redis.call('ZSCORE', QUEUE, id) or '')
  -- Who is in the list only was taken away by somebody else.
  if not place then return false end
  if place >= LEASED then return wanted.processing end
  if place >= HELD or place < due_from then return wanted.pending end
  return waits_so(id)
end

-- Go down the list of live tasks. Returns what it found, and whether it gave up, having looked at `count`.
local function scan(count)
  local found, last, step, stop = { '' }, before, limit, looked + count
  while looked < stop do
    step = math.min(step, math.ceil(stop - looked))
    local entries = newest(LIVE, last, step)
    for _, entry in ipairs(entries) do
      looked = looked + 1
      if is_wanted(id_of(entry)) then
        found[#found + 1] = entry
        if #found > limit then
          found[1] = entry
          return found, false
        end
      end
    end
    if #entries < step then return found, false end
    last, step = entries[step], math.min(2 * step, CHUNK)
  end
  found[1] = last
  return found, true
end

-- Take all live tasks in wanted states out of their bands. nil: too many of them are plain arq ones.
local function gather(ranges)
  local found, foreign = { '' }, 0
  for _, range in ipairs(ranges) do
    local ids = redis.call('ZRANGEBYSCORE', QUEUE, range[1], range[2])
    looked = looked + #ids * IN_A_BAND
    for _, id in ipairs(ids) do
      if not range.later or waits_so(id) then
        if is_native(id) then
          found[#found + 1] = string.sub(id, #TAG + 1)
        else
          foreign = foreign + FOREIGN
          if foreign > examine then return nil end
          local entry = entry_of(id, fetch(JOB .. id))
          -- One that was not met yet stands in no list.
          if redis.call('ZSCORE', LIVE, entry) then found[#found + 1] = entry end
        end
      end
    end
  end
  looked = looked + foreign
  return found
end

-- Few tasks are soonest found where they stand, many in the list. Where it is not plain, the list has the first try.
local function live()
  if wanted.pending and wanted.processing and wanted.scheduled and wanted.retrying then return top_of(LIVE) end
  local ranges, cost = {}, 0
  local function add(low, high, each, of_later)
    ranges[#ranges + 1] = { low, high, later = of_later }
    cost = cost + redis.call('ZCOUNT', QUEUE, low, high) * each
  end
  if wanted.pending then
    add('-inf', exclusive(due_from), IN_A_BAND)
    add(HELD, exclusive(LEASED), IN_A_BAND)
  end
  if later then add(due_from, exclusive(HELD), by_attempts and IN_A_BAND + WITH_ATTEMPTS or IN_A_BAND, true) end
  if wanted.processing then add(LEASED, '+inf', IN_A_BAND) end
  if cost > examine then return (scan(examine)) end
  local found, gave_up = scan(math.floor(cost / 2))
  if not gave_up then return found end
  return gather(ranges) or (scan(examine))
end

local reply = { 'ok', now, 0 }
if later or wanted.pending or wanted.processing then reply[4] = live() end
for status, list in pairs(SET_OF) do
  if wanted[status] then reply[#reply + 1] = top_of(list) end
end
reply[3] = math.ceil(looked)
return reply
