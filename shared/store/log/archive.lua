-- Puts a closed log's archive in its place; whoever reads on finds the same bytes there.
-- `changed`: the log is open, or is not what was packed; nothing was done then.
-- KEYS state log tools archive closed_logs packing held held_bytes
-- ARGV member entry_count chunk_count index record response_id
-- -> 'archived' | 'changed' | 'gone'
local state, log, tools, archive, closed_logs, packing, held, held_bytes = unpack(KEYS)
local member, entry_count, chunk_count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function leave(outcome, is_settled)
  redis.call('UNLINK', packing)
  if is_settled then redis.call('ZREM', closed_logs, member) end
  return outcome
end

local closed = redis.call('HGET', state, 'closed')
if not closed then return leave('gone', true) end
if redis.call('HEXISTS', state, 'compacted') == 1 then return leave('archived', true) end
if closed == '' or redis.call('XLEN', log) ~= entry_count then return leave('changed', false) end
if redis.call('HLEN', packing) ~= chunk_count then return leave('changed', false) end

redis.call('HSET', packing, 'index', ARGV[4], 'record', ARGV[5])
redis.call('RENAME', packing, archive)
redis.call('PEXPIRE', archive, redis.call('PTTL', state))
redis.call('HSET', state, 'compacted', '1')
redis.call('HDEL', state, 'request', 'snapshot')
redis.call('UNLINK', log)
let_go(held, held_bytes, ARGV[6])
for _, field in ipairs(redis.call('HKEYS', tools)) do
  if string.sub(field, 1, 8) ~= 'session:' then redis.call('HDEL', tools, field) end
end
return leave('archived', true)
