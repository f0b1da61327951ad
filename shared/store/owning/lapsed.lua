-- One sweep: returns open responses without an owner, those longest without one first. Returns none until Redis has
-- been available for as long as a lease lasts, since their owners could not renew. Sweeps are also Redis's pulse.
-- USES redis/clock owning/pulse
-- KEYS active pulse
-- ARGV lease_ttl_ms# ring_again_ms# count_max live_ttl_ms break_ms#
-- -> members
local now = now_ms()
local heard, known = unpack(redis.call('HMGET', pulse, 'heard_ms', 'history'))
heard = tonumber(heard)
local history, earlier = histories()
-- No pulse counts as a break: this may be the first sweep after an outage, and a failover may have lost the key.
local since = (not heard or heard > now or now - heard > break_ms) and now
-- After a failover, renewals sent to the former primary are not known here. Owners that have not noticed the new
-- primary still renew there, and get a further lease's time to come over.
if known and known ~= history then since = known == earlier and now + lease_ttl_ms or now end
if since then redis.call('HSET', pulse, 'since_ms', since) end
redis.call('HSET', pulse, 'heard_ms', now, 'history', history)
redis.call('PEXPIRE', pulse, live_ttl_ms)
if not is_steady(pulse, now, lease_ttl_ms) then return {} end
local found = redis.call('ZRANGEBYSCORE', active, '-inf', now, 'LIMIT', 0, count_max)
-- A time further ahead than any lease lasts was written by another server's clock, before a failover.
local beyond = now + 2 * math.max(lease_ttl_ms, ring_again_ms)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', active, '(' .. beyond, '+inf', 'LIMIT', 0, count_max)) do
  found[#found + 1] = member
end
return found
