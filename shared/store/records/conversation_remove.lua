-- Removes one item from a conversation.
-- KEYS conversation items order
-- ARGV ttl_ms item_id
-- -> {'ok', created_at, metadata} | {'missing'} | {'unknown'}
local head = redis.call('HMGET', conversation, 'created_at', 'metadata')
if not head[1] then return {'missing'} end
local item = redis.call('HGET', items, item_id)
if not item then return {'unknown'} end
redis.call('HDEL', items, item_id)
redis.call('ZREM', order, item_id)
redis.call('HINCRBY', conversation, 'bytes', -#item)
for _, key in ipairs({conversation, items, order}) do redis.call('PEXPIRE', key, ttl_ms) end
return {'ok', head[1], head[2]}
