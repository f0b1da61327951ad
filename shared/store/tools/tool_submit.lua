-- Journals the intent to call a tool and queues the call; a call journaled before is not queued again.
-- KEYS state tools queue doorbell job    ARGV proof call_index intent ttl_ms job_id job
-- -> {'queued'} | {'known', result or ''} | {'fenced'}
local state, tools, queue, doorbell, job_key = unpack(KEYS)
local token, index, intent, ttl_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local fields = redis.call('HMGET', state, 'attempt', 'closed', 'owner')
if not fields[1] or fields[1] .. ' ' .. fields[3] ~= token or fields[2] ~= '' then return {'fenced'} end
if redis.call('HSETNX', tools, index .. ':intent', intent) == 0 then
  return {'known', redis.call('HGET', tools, index .. ':result') or ''}
end
redis.call('HSET', tools, index .. ':job', ARGV[5])
redis.call('PEXPIRE', tools, ttl_ms)
enqueue(queue, doorbell, job_key, ARGV[5], ARGV[6], ttl_ms)
return {'queued'}
