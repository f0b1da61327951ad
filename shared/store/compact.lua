-- Puts a closed log's archive in its place; whoever reads on finds the same bytes there.
-- KEYS state log tools archive closed_logs    ARGV member entry_count (field value)…
-- -> 'compacted' | 'changed' | 'gone'
local state, log, tools, archive, closed_logs = unpack(KEYS)
local member, count = ARGV[1], tonumber(ARGV[2])

local closed = redis.call('HGET', state, 'closed')
if not closed then
  redis.call('ZREM', closed_logs, member)
  return 'gone'
end
if redis.call('HEXISTS', state, 'compacted') == 1 then
  redis.call('ZREM', closed_logs, member)
  return 'compacted'
end
if closed == '' or redis.call('XLEN', log) ~= count then return 'changed' end
for i = 3, #ARGV, 2 do redis.call('HSET', archive, ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', archive, redis.call('PTTL', state))
redis.call('HSET', state, 'compacted', '1')
redis.call('HDEL', state, 'request', 'snapshot')
redis.call('DEL', log)
for _, field in ipairs(redis.call('HKEYS', tools)) do
  if string.sub(field, 1, 8) ~= 'session:' then redis.call('HDEL', tools, field) end
end
redis.call('ZREM', closed_logs, member)
return 'compacted'
