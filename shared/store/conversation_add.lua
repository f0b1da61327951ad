-- Puts items at the end of a conversation, all or none; with a birth, makes the conversation first.
-- An item that is there already as it is comes from a repetition of this call: it stays in its place.
-- KEYS conversation items order
-- ARGV ttl_ms bytes_max created_at metadata item_count (item_id item)…    created_at '': it must be there
-- -> {'ok'} | {'missing'} | {'taken', index} | {'full'}
local conversation, items, order = unpack(KEYS)
local ttl_ms, bytes_max, created_at, count = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5])

local is_known = redis.call('EXISTS', conversation) == 1
if not is_known and created_at == '' then return {'missing'} end
local places, bytes = {}, tonumber(redis.call('HGET', conversation, 'bytes') or 0)
for i = 0, count - 1 do
  local item = ARGV[7 + 2 * i]
  local present = redis.call('HGET', items, ARGV[6 + 2 * i])
  if not present then
    places[#places + 1] = 6 + 2 * i
    bytes = bytes + #item
  elseif present ~= item then
    return {'taken', i}
  end
end
if #places > 0 and bytes > bytes_max then return {'full'} end

if not is_known then redis.call('HSET', conversation, 'created_at', created_at, 'metadata', ARGV[4], 'next', 0) end
redis.call('HSET', conversation, 'bytes', bytes)
for _, place in ipairs(places) do
  redis.call('HSET', items, ARGV[place], ARGV[place + 1])
  redis.call('ZADD', order, redis.call('HINCRBY', conversation, 'next', 1), ARGV[place])
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl_ms) end
return {'ok'}
