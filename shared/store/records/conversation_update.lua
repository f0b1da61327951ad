-- Replaces a conversation's metadata.
-- KEYS conversation items order    ARGV ttl_ms metadata    -> {created_at, metadata} | {}
local conversation = KEYS[1]

local created_at = redis.call('HGET', conversation, 'created_at')
if not created_at then return {} end
redis.call('HSET', conversation, 'metadata', ARGV[2])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
return {created_at, ARGV[2]}
