-- Announces a reader of a foreground response, or with a ttl of 0 that it leaves.
-- USES redis/clock
-- KEYS readers state
-- ARGV reader ttl_ms#
-- -> the number of readers
local now = now_ms()
if ttl_ms > 0 then
  redis.call('ZADD', readers, now + ttl_ms, reader)
  redis.call('PEXPIRE', readers, 4 * ttl_ms)
else
  redis.call('ZREM', readers, reader)
end
local present = redis.call('ZCOUNT', readers, now, '+inf')
-- Recorded here as well as by the owner's beat, since a reader may stay for less than a beat.
if redis.call('HGET', state, 'closed') == '' then
  redis.call('HSET', state, 'alone_since_ms', present == 0 and now or '')
end
return present
