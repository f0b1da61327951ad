-- Accepts a response: record, log entry 0, secrets, job and doorbell, or nothing at all.
-- KEYS state log secrets active queue doorbell job
-- ARGV member job_id job ttl_ms queue_depth_max ring_again_ms request store frame secrets
-- -> {'ok', created_ms} | {'exists'} | {'full', depth}
local state, log, secrets, active, queue, doorbell, job_key = unpack(KEYS)
local member, job_id, job = ARGV[1], ARGV[2], ARGV[3]
local ttl_ms, depth_max, ring_again_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

if redis.call('EXISTS', state) == 1 then return {'exists'} end
local depth = redis.call('ZCARD', queue)
if depth >= depth_max then return {'full', depth} end

local now = now_ms()
redis.call('HSET', state, 'request', ARGV[7], 'store', ARGV[8], 'created_ms', now,
  'attempt', 0, 'owner', '', 'lease_until_ms', 0, 'rings', 0, 'job', job_id, 'closed', '')
redis.call('PEXPIRE', state, ttl_ms)
redis.call('XADD', log, '1-0', 'e', ARGV[9])
redis.call('PEXPIRE', log, ttl_ms)
if ARGV[10] ~= '' then redis.call('SET', secrets, ARGV[10], 'PX', ttl_ms) end
redis.call('ZADD', active, now + ring_again_ms, member)
redis.call('PEXPIRE', active, ttl_ms)
enqueue(queue, doorbell, job_key, job_id, job, ttl_ms)
return {'ok', now}
