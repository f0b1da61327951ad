-- Queues a question that only a worker can answer.
-- KEYS queue doorbell job    ARGV job_id job ttl_ms
enqueue(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 'ok'
