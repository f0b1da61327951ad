-- Keeps a lease, and the keys of its response alive. A release is a renewal by nothing: ttl 0.
-- A foreground response that nobody has read for the grace is abandoned by its client.
-- KEYS state log tools secrets active open readers
-- ARGV member fencing_token lease_ttl_ms live_ttl_ms disconnect_grace_ms
-- -> 'ok' | 'lost' | 'abandoned'
local state, log, tools, secrets, active, open, readers = unpack(KEYS)
local member, token, lease_ttl_ms, live_ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local fields = redis.call('HMGET', state, 'attempt', 'closed', 'background', 'alone_since_ms')
if fields[1] ~= token or fields[2] ~= '' then return 'lost' end
local now = now_ms()
redis.call('HSET', state, 'lease_until_ms', lease_ttl_ms > 0 and now + lease_ttl_ms or 0)
for _, key in ipairs({state, log, tools, secrets, active, open}) do redis.call('PEXPIRE', key, live_ttl_ms) end
redis.call('ZADD', active, now + lease_ttl_ms, member)
if fields[3] == '1' then return 'ok' end
if redis.call('ZCOUNT', readers, now, '+inf') > 0 then
  if fields[4] ~= '' then redis.call('HSET', state, 'alone_since_ms', '') end
elseif fields[4] == '' then
  redis.call('HSET', state, 'alone_since_ms', now)
elseif now - tonumber(fields[4]) >= tonumber(ARGV[5]) then
  return 'abandoned'
end
return 'ok'
