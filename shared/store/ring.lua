-- Queues an open response again whose lease has lapsed, before all turns; forgets one that needs no owner.
-- If its job is still queued, only the doorbell is rung again, since its token may have been lost.
-- USES redis/clock queue
-- `queue`: where the first records wait, which do not name theirs.
-- KEYS state log tools secrets active queue open
-- ARGV member response_id ring_again_ms# live_ttl_ms# job lease_ttl_max_ms#
-- -> 'rung' | 'waiting' | 'held' | 'gone'
local fields = redis.call('HMGET', state, 'closed', 'lease_until_ms', 'job', 'queue')
if fields[1] ~= '' then
  redis.call('ZREM', active, member)
  redis.call('SREM', open, response_id)
  return 'gone'
end
local now = now_ms()
local lease_until = tonumber(fields[2])
if lease_until > now and lease_until <= now + lease_ttl_max_ms then
  redis.call('ZADD', active, fields[2], member)
  return 'held'
end
for _, key in ipairs({state, log, tools, secrets, active, open}) do redis.call('PEXPIRE', key, live_ttl_ms) end
redis.call('ZADD', active, now + ring_again_ms, member)
queue = fields[4] or queue
local doorbell = queue .. ':doorbell'
if redis.call('ZSCORE', queue, fields[3]) then
  redis.call('DEL', 'arq:in-progress:' .. fields[3])  -- left by a worker that was interrupted while taking the job
  keep_waiting(queue, doorbell, fields[3], live_ttl_ms)
  return 'waiting'
end
local job_id = member .. ':' .. redis.call('HINCRBY', state, 'rings', 1)
redis.call('HSET', state, 'job', job_id)
redis.call('DEL', 'arq:retry:' .. fields[3])  -- left by a worker that died while taking the job
enqueue(queue, doorbell, 'arq:job:' .. job_id, job_id, job, live_ttl_ms, '')
return 'rung'
