-- A look of a sweeper: open responses that nobody holds, those longest without an owner first. None while Redis
-- has not been there for as long as a lease lasts: their owners could not keep them. The looks are Redis's pulse.
-- USES redis/clock owning/pulse
-- KEYS active pulse
-- ARGV lease_ttl_ms# ring_again_ms# count_max live_ttl_ms break_ms#
-- -> members
local now = now_ms()
local heard, known = unpack(redis.call('HMGET', pulse, 'heard_ms', 'history'))
heard = tonumber(heard)
local history, earlier = histories()
-- No pulse is a break as well: the first look may be that after an outage, and a failover may have lost the key.
local since = (not heard or heard > now or now - heard > break_ms) and now
-- What was renewed on another primary since it was replaced is not known here. Some have not heard of this one yet:
-- they still renew there, and have a lease's time to come.
if known and known ~= history then since = known == earlier and now + lease_ttl_ms or now end
if since then redis.call('HSET', pulse, 'since_ms', since) end
redis.call('HSET', pulse, 'heard_ms', now, 'history', history)
redis.call('PEXPIRE', pulse, live_ttl_ms)
if not is_steady(pulse, now, lease_ttl_ms) then return {} end
local found = redis.call('ZRANGEBYSCORE', active, '-inf', now, 'LIMIT', 0, count_max)
-- A time further off than any lease lasts was written by another clock, before a failover.
local beyond = now + 2 * math.max(lease_ttl_ms, ring_again_ms)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', active, '(' .. beyond, '+inf', 'LIMIT', 0, count_max)) do
  found[#found + 1] = member
end
return found
