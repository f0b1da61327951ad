-- Replaces a conversation's metadata.
-- KEYS conversation items order
-- ARGV ttl_ms metadata
-- -> {created_at, metadata} | {}
local created_at = redis.call('HGET', conversation, 'created_at')
if not created_at then return {} end
redis.call('HSET', conversation, 'metadata', metadata)
for _, key in ipairs({conversation, items, order}) do redis.call('PEXPIRE', key, ttl_ms) end
return {created_at, metadata}
