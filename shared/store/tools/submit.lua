-- Journals the intent to call a tool and queues the call, unless it was journaled before.
-- USES queue
-- KEYS state tools queue doorbell job_key
-- ARGV proof index intent ttl_ms# job_id job flow turn_cost#
-- -> {'queued'} | {'known', result or ''} | {'fenced'}
local fields = redis.call('HMGET', state, 'attempt', 'closed', 'owner')
if not fields[1] or fields[1] .. ' ' .. fields[3] ~= proof or fields[2] ~= '' then return {'fenced'} end
if redis.call('HSETNX', tools, index .. ':intent', intent) == 0 then
  return {'known', redis.call('HGET', tools, index .. ':result') or ''}
end
redis.call('HSET', tools, index .. ':job', job_id)
redis.call('PEXPIRE', tools, ttl_ms)
enqueue(queue, doorbell, job_key, job_id, job, ttl_ms, flow, turn_cost)
return {'queued'}
