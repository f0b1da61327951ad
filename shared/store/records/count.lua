-- Queues a token count, which only a worker can do.
-- USES redis/clock queue records/held
-- KEYS queue doorbell job_key held held_bytes
-- ARGV job_id job ttl_ms# queue_depth_max# bytes_max# flow turn_cost#
-- -> 'ok' | 'full' | 'heavy'
local now = now_ms()
if redis.call('ZCARD', queue) >= queue_depth_max then return 'full' end
if held_total(held, held_bytes, now) + #job > bytes_max then return 'heavy' end
hold(held, held_bytes, job_id, #job, now, ttl_ms)
enqueue(queue, doorbell, job_key, job_id, job, ttl_ms, flow, turn_cost)
return 'ok'
