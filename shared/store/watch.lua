-- A reader of a foreground response says that it is there, or with ttl 0 that it leaves.
-- KEYS readers    ARGV reader ttl_ms    -> how many readers there are now
local readers = KEYS[1]
local reader, ttl_ms = ARGV[1], tonumber(ARGV[2])

local now = now_ms()
if ttl_ms > 0 then
  redis.call('ZADD', readers, now + ttl_ms, reader)
  redis.call('PEXPIRE', readers, 4 * ttl_ms)
else
  redis.call('ZREM', readers, reader)
end
return redis.call('ZCOUNT', readers, now, '+inf')
