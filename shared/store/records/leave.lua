-- Withdraws a reader of a foreground response.
-- USES redis/clock
-- KEYS readers state
-- ARGV reader
-- -> the number of readers that are left
redis.call('ZREM', readers, reader)
local now = now_ms()
local present = redis.call('ZCOUNT', readers, now, '+inf')
-- Recorded here as well as by the owner's beat, since a reader may stay for less than a beat.
if redis.call('HGET', state, 'closed') == '' then
  redis.call('HSET', state, 'alone_since_ms', present == 0 and now or '')
end
return present
