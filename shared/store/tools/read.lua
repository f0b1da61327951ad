-- Reads the state of a call, by Redis's own clock.
-- USES redis/clock owning/pulse
-- KEYS tools queue pulse
-- ARGV index claim_ttl_ms#
-- -> {'result', result} | {standing, claim, is_steady}
--    standing: 'unknown', 'queued', 'unqueued', 'running', 'lapsed', 'returned' or 'unbegun'
local result, claim, job = unpack(redis.call('HMGET', tools, index .. ':result', index .. ':claim', index .. ':job'))
if result then return {'result', result} end
local now = now_ms()
-- Returns a state in which something is missing, and whether it could have been renewed.
local function missing(standing) return {standing, claim or '', is_steady(pulse, now, claim_ttl_ms) and 1 or 0} end

if not claim then
  if redis.call('HEXISTS', tools, index .. ':intent') == 0 then return missing('unknown') end
  -- A runner claims a call before it takes the job out of the queue.
  if job and not redis.call('ZSCORE', queue, job) then return missing('unqueued') end
  return {'queued', '', 1}
end
local until_ms = tonumber(string.match(claim, '^%S+ (%S+)'))
if until_ms <= 0 then return {until_ms == 0 and 'returned' or 'unbegun', claim, 1} end
local left_ms = until_ms - now
-- A time further ahead than any claim lasts was written by another server's clock, before a failover.
if left_ms < 0 or left_ms > 2 * claim_ttl_ms then return missing('lapsed') end
return {'running', claim, 1}
