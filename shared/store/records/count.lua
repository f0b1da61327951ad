-- Queues a question that only a worker can answer.
-- KEYS queue doorbell job held held_bytes    ARGV job_id job ttl_ms queue_depth_max bytes_max
-- -> 'ok' | 'full' | 'heavy'
local now = now_ms()
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 'full' end
if held_total(KEYS[4], KEYS[5], now) + #ARGV[2] > tonumber(ARGV[5]) then return 'heavy' end
hold(KEYS[4], KEYS[5], ARGV[1], #ARGV[2], now, tonumber(ARGV[3]))
enqueue(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 'ok'
