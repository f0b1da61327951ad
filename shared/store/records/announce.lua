-- Announces readers of foreground responses, for the first time or again, many at a time.
-- USES redis/clock
-- ARGV readers_pattern state_pattern ttl_ms# (name reader)…
-- -> how many were announced
local now = now_ms()
for place = REST, #ARGV, 2 do
  local readers, state = string.format(readers_pattern, ARGV[place]), string.format(state_pattern, ARGV[place])
  redis.call('ZADD', readers, now + ttl_ms, ARGV[place + 1])
  -- Kept for long after they lapse: the owner's beat sees by them that they did not leave.
  redis.call('PEXPIRE', readers, 30 * ttl_ms)
  local closed, alone_since = unpack(redis.call('HMGET', state, 'closed', 'alone_since_ms'))
  if closed == '' and alone_since ~= '' then redis.call('HSET', state, 'alone_since_ms', '') end
end
return (#ARGV - REST + 1) / 2
