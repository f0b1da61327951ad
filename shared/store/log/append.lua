-- Appends entries under a fencing token and publishes them; with a status, closes the log too.
-- Everything or nothing: refused entries are never visible.
-- KEYS state log secrets active tools open closed_logs conversation items order queue
--      held
-- ARGV channel member response_id proof next_sequence_number closed retention_ms snapshot
--      compact_after_ms cancelled_channel conversation_ttl_ms usage
--      entry_count (frame tokens)… item_count (item_id item)… (entry_index measured)…
-- -> {'ok', next} | {'fenced'} | {'closed'} | {'missing'} | {'gap', next, owner}
local state, log, secrets, active, tools, open, closed_logs = unpack(KEYS)
local channel, member, response_id, token, first = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local closed, retention_ms, count = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[13])

local fields = redis.call('HMGET', state, 'attempt', 'closed', 'store', 'job', 'owner')
if not fields[1] then return {'missing'} end
if fields[2] ~= '' then return {'closed'} end
if fields[1] .. ' ' .. fields[5] ~= token then return {'fenced'} end
local tail = redis.call('XLEN', log)
if tail ~= first then return {'gap', tail, fields[5]} end

local measured = {}
for i = 15 + 2 * count + 2 * tonumber(ARGV[14 + 2 * count]), #ARGV, 2 do
  measured[tonumber(ARGV[i])] = ARGV[i + 1]
end

local frames = {}
for i = 0, count - 1 do
  local frame, tokens = ARGV[14 + 2 * i], ARGV[15 + 2 * i]
  local id = string.format('%d-0', first + i + 1)
  if tokens == '' then
    redis.call('XADD', log, id, 'e', frame)
  elseif measured[i] then
    redis.call('XADD', log, id, 'e', frame, 't', tokens, 'm', measured[i])
  else
    redis.call('XADD', log, id, 'e', frame, 't', tokens)
  end
  frames[i + 1] = frame
end
tail = first + count
-- For whoever ends the response without having counted its tokens.
if ARGV[12] ~= '' then redis.call('HSET', state, 'usage', ARGV[12]) end

-- A closed response's input and output join its conversation, if that still exists.
local function join_conversation(at)
  local conversation, items, order = KEYS[8], KEYS[9], KEYS[10]
  local item_count = tonumber(ARGV[at])
  if item_count == 0 or redis.call('EXISTS', conversation) == 0 then return end
  for i = 0, item_count - 1 do
    local item_id, item = ARGV[at + 1 + 2 * i], ARGV[at + 2 + 2 * i]
    if redis.call('HSETNX', items, item_id, item) == 1 then
      redis.call('ZADD', order, redis.call('HINCRBY', conversation, 'next', 1), item_id)
      redis.call('HINCRBY', conversation, 'bytes', #item)
    end
  end
  for _, key in ipairs({conversation, items, order}) do redis.call('PEXPIRE', key, ARGV[11]) end
end

if closed ~= '' then
  redis.call('HSET', state, 'closed', closed, 'snapshot', ARGV[8], 'lease_until_ms', 0)
  redis.call('HDEL', state, 'usage')
  for _, key in ipairs({state, log, tools}) do redis.call('PEXPIRE', key, retention_ms) end
  redis.call('DEL', secrets, 'arq:job:' .. fields[4], 'arq:retry:' .. fields[4])
  redis.call('ZREM', KEYS[11], fields[4])  -- one that was closed before a worker took it
  redis.call('ZREM', active, member)
  redis.call('SREM', open, response_id)
  if fields[3] == '1' then
    -- One that failed is packed at once: clients repeat what fails, and nothing is read of it.
    redis.call('ZADD', closed_logs, now_ms() + (closed == 'failed' and 0 or tonumber(ARGV[9])), member)
    if redis.call('PTTL', closed_logs) < retention_ms then
      redis.call('PEXPIRE', closed_logs, retention_ms)
    end
  else
    redis.call('ZADD', KEYS[12], 'XX', now_ms() + retention_ms, response_id)  -- it is never packed
  end
  join_conversation(14 + 2 * count)
  if closed == 'cancelled' then redis.call('PUBLISH', ARGV[10], member) end
end
redis.call('PUBLISH', channel,
  string.format('%d %d %d\n', first, tail, closed ~= '' and 1 or 0) .. table.concat(frames))
return {'ok', tail}
