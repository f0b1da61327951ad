-- Puts items at the end of a conversation, all or none; with a birth, makes the conversation first.
-- A call whose reply was lost comes again with the same name, and changes nothing then.
-- KEYS conversation items order
-- ARGV ttl_ms call bytes_max created_at metadata item_count (item_id item)…    created_at '': it must be there
-- -> {'ok'} | {'missing'} | {'taken'} | {'full'}
local CALLS_LENGTH_MAX = 512

local conversation, items, order = unpack(KEYS)
local ttl_ms, call, bytes_max, created_at, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[6])

local is_known = redis.call('EXISTS', conversation) == 1
if not is_known and created_at == '' then return {'missing'} end
local calls = redis.call('HGET', conversation, 'calls') or ''
if string.find(calls, call, 1, true) then return {'ok'} end
local bytes = tonumber(redis.call('HGET', conversation, 'bytes') or 0)
for i = 7, 6 + 2 * count, 2 do
  if redis.call('HEXISTS', items, ARGV[i]) == 1 then return {'taken'} end
  bytes = bytes + #ARGV[i + 1]
end
if count > 0 and bytes > bytes_max then return {'full'} end

if not is_known then redis.call('HSET', conversation, 'created_at', created_at, 'metadata', ARGV[5], 'next', 0) end
redis.call('HSET', conversation, 'bytes', bytes, 'calls', string.sub(calls .. call, -CALLS_LENGTH_MAX))
for i = 7, 6 + 2 * count, 2 do
  redis.call('HSET', items, ARGV[i], ARGV[i + 1])
  redis.call('ZADD', order, redis.call('HINCRBY', conversation, 'next', 1), ARGV[i])
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl_ms) end
return {'ok'}
