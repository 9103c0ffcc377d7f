-- Send failed or cancelled tasks back to the queue with fresh attempts; their history stays.
-- KEYS: the queue's ZSET; every other key is spelled from its tag (store/keys.py)
-- ARGV: now, gateway, limit (waiting tasks), count, then per task: id, delay_ms (0: at once)
-- Returns: 'ok', now, tasks for this gateway to claim, then per task a word: pending, full, conflict (its unique key is
--          another's), completed, live, missing
local now, gateway, limit, total = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local function unique_taken(record)
  local options = options_of(body_in(record))
  local holder = options.unique and redis.call('GET', UNIQUE .. options.unique)
  -- One without a task is nobody's, as in enqueue.lua.
  return holder and redis.call('EXISTS', JOB .. holder, RESULT .. holder) > 0
end

limit = most_waiting(limit)
local reply, depth, ready = { 'ok', now, 0 }, waiting_count(), 0
for i = 1, total do
  local id, delay_ms = ARGV[3 + 2 * i], tonumber(ARGV[4 + 2 * i])
  local record = record_of(id)
  local facts = record and facts_of(record)
  if not facts then
    reply[3 + i] = redis.call('ZSCORE', QUEUE, id) and 'live' or 'missing'
  else
    if facts[1] == 'completed' then
      reply[3 + i] = 'completed'
    elseif depth >= limit then
      reply[3 + i] = string.format('full %d', limit)
    elseif unique_taken(record) then
      reply[3 + i] = 'conflict'
    else
      local body = body_in(record)
      local entry, options = entry_of(id, body), options_of(body)
      redis.call('SET', JOB .. id, body)
      if options.unique then redis.call('SET', UNIQUE .. options.unique, id) end
      redis.call('DEL', RESULT .. id, RETRY .. id)
      redis.call('ZREM', final_list(facts[1]), entry)
      local sign = final_mark(facts[1]) .. entry
      local score = redis.call('ZSCORE', EXPIRY, sign)
      if score then count('bytes', -size_in(tonumber(score))) end
      redis.call('ZREM', EXPIRY, sign)
      redis.call('ZADD', LIVE, 0, entry)
      count('bytes', #body)
      if facts[5] > 0 then
        remember(id, entry, { [ATTEMPT] = facts[3], [WORKER] = facts[4], [STARTED] = facts[5] }, facts[6],
          facts[7] ~= '' and facts[7] or facts[1], '')
      end
      redis.call('HDEL', TRAIL .. entry, 'progress', 'last', 'error')
      redis.call('HSET', TRAIL .. entry, 'due', now + delay_ms)
      redis.call('PERSIST', TRAIL .. entry)
      redis.call('PERSIST', LOG .. entry)
      if delay_ms > 0 then
        to_due(id, options.priority, now + delay_ms)
      else
        to_ready(id, options.priority)
        ready = ready + 1
      end
      depth = depth + 1
      count('redriven')
      reply[3 + i] = 'pending'
    end
  end
end
if ready > 0 then reply[3] = ring(now, ready, gateway) end
settle(now)
return reply
