-- Queues a call again whose runner was lost, or whose job was lost (then `lost_claim` is ''); the worker decides that.
-- `lost_after_ms`: as in `resolve.lua`.
-- USES redis/clock owning/pulse queue
-- KEYS state tools queue doorbell job_key pulse
-- ARGV proof index lost_claim ttl_ms# job_id job lost_after_ms#
-- -> 'queued' | 'moved' (the claim has changed, there is a result, or it is too early to say) | 'fenced'
local fields = redis.call('HMGET', state, 'attempt', 'closed', 'owner')
if not fields[1] or fields[1] .. ' ' .. fields[3] ~= proof or fields[2] ~= '' then return 'fenced' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'moved' end
if (redis.call('HGET', tools, index .. ':claim') or '') ~= lost_claim then return 'moved' end
if lost_after_ms > 0 and not is_steady(pulse, now_ms(), lost_after_ms) then return 'moved' end
redis.call('HDEL', tools, index .. ':claim')
redis.call('HSET', tools, index .. ':job', job_id)
enqueue(queue, doorbell, job_key, job_id, job, ttl_ms, '')  -- it has had its turn
return 'queued'
