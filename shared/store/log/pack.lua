-- Stores one packed chunk of a log that is being archived, and extends the claim on the log.
-- USES redis/clock
-- KEYS packing closed_logs
-- ARGV chunk_index chunk claim_ms# member
-- -> 'ok'
redis.call('HSET', packing, chunk_index, chunk)
redis.call('PEXPIRE', packing, claim_ms)
redis.call('ZADD', closed_logs, 'XX', now_ms() + claim_ms, member)
return 'ok'
