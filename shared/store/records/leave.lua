-- Withdraws a reader of a foreground response.
-- USES redis/clock
-- KEYS readers state
-- ARGV reader
-- -> the number of readers that have not left
redis.call('ZREM', readers, reader)
local left = redis.call('ZCARD', readers)
-- Recorded here as well as by the owner's beat, since a reader may stay for less than a beat. About readers that were
-- lost with their node only the beat decides.
if redis.call('HGET', state, 'closed') == '' then
  redis.call('HSET', state, 'alone_since_ms', left == 0 and now_ms() or '')
end
return left
