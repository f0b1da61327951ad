-- Appends items to a conversation, all or none; creates the conversation first if `created_at` is given.
-- `created_at`: '' if the conversation must exist already.
-- `call`: identifies this call, so that it changes nothing if it is repeated after a lost reply.
-- KEYS conversation items order
-- ARGV ttl_ms call bytes_max# created_at metadata (item_id item)…
-- -> {'ok'} | {'missing'} | {'taken'} | {'full'}
local CALLS_LENGTH_MAX = 512

local is_known = redis.call('EXISTS', conversation) == 1
if not is_known and created_at == '' then return {'missing'} end
local calls = redis.call('HGET', conversation, 'calls') or ''
if string.find(calls, call, 1, true) then return {'ok'} end
local bytes = tonumber(redis.call('HGET', conversation, 'bytes') or 0)
for i = REST, #ARGV, 2 do
  if redis.call('HEXISTS', items, ARGV[i]) == 1 then return {'taken'} end
  bytes = bytes + #ARGV[i + 1]
end
if REST <= #ARGV and bytes > bytes_max then return {'full'} end

if not is_known then redis.call('HSET', conversation, 'created_at', created_at, 'metadata', metadata, 'next', 0) end
redis.call('HSET', conversation, 'bytes', bytes, 'calls', string.sub(calls .. call, -CALLS_LENGTH_MAX))
for i = REST, #ARGV, 2 do
  redis.call('HSET', items, ARGV[i], ARGV[i + 1])
  redis.call('ZADD', order, redis.call('HINCRBY', conversation, 'next', 1), ARGV[i])
end
for _, key in ipairs({conversation, items, order}) do redis.call('PEXPIRE', key, ttl_ms) end
return {'ok'}
