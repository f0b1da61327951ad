-- How far a call is, by Redis's own clock, at one moment.
-- KEYS tools queue    ARGV call_index claim_ttl_ms
-- -> {'result', result} | {'unknown'} | {'queued'} | {'unqueued'} | {standing, claim}
--    standing: 'running', 'lapsed', 'returned' or 'unbegun'
local tools, queue, index, claim_ttl_ms = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

local result, claim, job = unpack(redis.call('HMGET', tools, index .. ':result', index .. ':claim', index .. ':job'))
if result then return {'result', result} end
if not claim then
  if redis.call('HEXISTS', tools, index .. ':intent') == 0 then return {'unknown'} end
  -- A runner claims a call before it takes the job out of the queue.
  return {job and not redis.call('ZSCORE', queue, job) and 'unqueued' or 'queued'}
end
local until_ms = tonumber(string.match(claim, '^%S+ (%S+)'))
if until_ms <= 0 then return {until_ms == 0 and 'returned' or 'unbegun', claim} end
local left_ms = until_ms - now_ms()
-- More than a claim lasts was written by another clock, before a failover.
if left_ms < 0 or left_ms > 2 * claim_ttl_ms then return {'lapsed', claim} end
return {'running', claim}
