-- Keeps one packed chunk of a log that is being archived, and the claim on it for a while longer.
-- KEYS packing closed_logs    ARGV chunk_index chunk claim_ms member    -> 'ok'
local packing, closed_logs = unpack(KEYS)
local claim_ms = tonumber(ARGV[3])
redis.call('HSET', packing, ARGV[1], ARGV[2])
redis.call('PEXPIRE', packing, claim_ms)
redis.call('ZADD', closed_logs, 'XX', now_ms() + claim_ms, ARGV[4])
return 'ok'
