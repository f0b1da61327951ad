-- Keeps a lease, and the keys of its response alive. A release is a renewal by nothing: ttl 0.
-- KEYS state log tools secrets active    ARGV member fencing_token lease_ttl_ms live_ttl_ms
-- -> 'ok' | 'lost'
local state, log, tools, secrets, active = unpack(KEYS)
local member, token, lease_ttl_ms, live_ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local fields = redis.call('HMGET', state, 'attempt', 'closed')
if fields[1] ~= token or fields[2] ~= '' then return 'lost' end
local now = now_ms()
redis.call('HSET', state, 'lease_until_ms', now + lease_ttl_ms)
for _, key in ipairs({state, log, tools, secrets, active}) do redis.call('PEXPIRE', key, live_ttl_ms) end
redis.call('ZADD', active, now + lease_ttl_ms, member)
return 'ok'
