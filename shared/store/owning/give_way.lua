-- Releases the lease of a response between two turns of the model, and queues it in its flow, if others wait that are
-- not `flex`. It counts as handed over. Anybody may take it, but of its flow the owner that it leaves takes it first.
-- USES redis/clock queue
-- KEYS state active queue
-- `turn_cost`: of a response whose state has none, from a version before.
-- ARGV member proof job flow turn_cost# ring_again_ms# live_ttl_ms#
-- -> 'given' | 'kept' (nobody else waits) | 'lost'
local LOOKED_AT = 8  -- flows, of which those of `flex` have their next turns last, and jobs of each: cancelled ones may be first
local fields = redis.call('HMGET', state, 'attempt', 'owner', 'closed', 'lease_until_ms', 'queue', 'turn_cost')
if not fields[1] or fields[1] .. ' ' .. fields[2] ~= proof or fields[3] ~= '' then return 'lost' end
if fields[4] == '0' then return 'given' end  -- sent twice
queue, turn_cost = fields[5] or queue, tonumber(fields[6] or turn_cost)

local function does_wait(other)
  local tier = string.match(other, '/([^/]*)$')
  if tier == 'flex' or tier == 'count' then return false end
  for _, job_id in ipairs(redis.call('LRANGE', queue .. ':waiting:' .. other, 0, LOOKED_AT - 1)) do
    if redis.call('ZSCORE', queue, job_id) then return true end
  end
  return false
end

for _, other in ipairs(redis.call('ZRANGE', queue .. ':turns', 0, LOOKED_AT - 1)) do
  if does_wait(other) then
    local now, job_id = now_ms(), member .. ':' .. redis.call('HINCRBY', state, 'rings', 1)
    redis.call('HSET', state, 'lease_until_ms', 0, 'left_ms', now, 'job', job_id)
    redis.call('ZADD', active, now + ring_again_ms, member)
    enqueue(queue, queue .. ':doorbell', 'arq:job:' .. job_id, job_id, job, live_ttl_ms, flow, turn_cost)
    keep_for({worker = fields[2], until_ms = now}, queue, job_id, live_ttl_ms, flow)
    return 'given'
  end
end
return 'kept'
