-- Releases the lease of a response between two turns of the model, and queues it in its flow, if others wait that are
-- not `flex` and that its owner can take only once it has left. It counts as handed over. Anybody may take it, but of its
-- flow the owner that it leaves takes it first.
-- USES redis/clock queue taking
-- KEYS state active queue
-- `turn_cost`: of a response whose state has none, from a version before. `count_max`, `bytes_left`: what its owner has room
-- for now, as in a claim.
-- ARGV member proof job flow turn_cost# ring_again_ms# live_ttl_ms# count_max# bytes_max# bytes_left# large_bytes#
--      state_pattern
-- -> 'given' | 'kept' (nobody else waits for it) | 'lost'
local SEEN_MAX = 8  -- flows, of which those of `flex` have their next turns last, and jobs of each: cancelled ones may be first
local fields = redis.call('HMGET', state, 'attempt', 'owner', 'closed', 'lease_until_ms', 'queue', 'turn_cost')
if not fields[1] or fields[1] .. ' ' .. fields[2] ~= proof or fields[3] ~= '' then return 'lost' end
if fields[4] == '0' then return 'given' end  -- sent twice
queue, turn_cost = fields[5] or queue, tonumber(fields[6] or turn_cost)

local room = {bytes_max = bytes_max, large_bytes = large_bytes, state_pattern = state_pattern}
local bytes_then = bytes_left + weigh(member .. ':0', room)
local is_blocked = false  -- by a large job, for which even its place would not do, and which keeps its place before the others

local function does_wait(job_id)
  local of = string.match(job_id, '^(.*):%d+$')
  if not of or not redis.call('ZSCORE', queue, job_id) or redis.call('EXISTS', 'arq:in-progress:' .. job_id) == 1 then
    return false
  end
  local bytes = weigh(job_id, room)
  is_blocked = is_blocked or not has_room(bytes, bytes_then, bytes_max)
  if bytes > 0 and is_blocked or redis.call('HEXISTS', string.format(state_pattern, of), 'turn_cost') == 1 then
    return false
  end
  return count_max <= 0 or not has_room(bytes, bytes_left, bytes_max)
end

local function do_any_wait(job_ids)
  for _, job_id in ipairs(job_ids) do
    if does_wait(job_id) then return true end
  end
  return false
end

local function do_others_wait()
  for _, part in ipairs({':front', ':large'}) do
    if do_any_wait(redis.call('ZRANGE', queue .. part, 0, SEEN_MAX - 1)) then return true end
  end
  for _, other in ipairs(redis.call('ZRANGE', queue .. ':turns', 0, SEEN_MAX - 1)) do
    local tier = string.match(other, '/([^/]*)$')
    if tier ~= 'flex' and tier ~= 'count'
      and do_any_wait(redis.call('LRANGE', queue .. ':waiting:' .. other, 0, SEEN_MAX - 1)) then
      return true
    end
  end
  return false
end

if not do_others_wait() then return 'kept' end
local now, job_id = now_ms(), member .. ':' .. redis.call('HINCRBY', state, 'rings', 1)
redis.call('HSET', state, 'lease_until_ms', 0, 'left_ms', now, 'job', job_id)
redis.call('ZADD', active, now + ring_again_ms, member)
enqueue(queue, queue .. ':doorbell', 'arq:job:' .. job_id, job_id, job, live_ttl_ms, flow, turn_cost)
keep_for({worker = fields[2], until_ms = now}, queue, job_id, live_ttl_ms, flow)
return 'given'
