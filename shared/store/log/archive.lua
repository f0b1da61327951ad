-- Replaces a closed log by its archive, from which readers get the same bytes.
-- Answers `changed`, having done nothing, if the log is open or does not match the packed chunks.
-- USES records/held
-- KEYS state log tools archive closed_logs packing held held_bytes
-- ARGV member entry_count# chunk_count# index record response_id
-- -> 'archived' | 'changed' | 'gone'

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

redis.call('HSET', packing, 'index', index, 'record', record)
redis.call('RENAME', packing, archive)
redis.call('PEXPIRE', archive, redis.call('PTTL', state))
redis.call('HSET', state, 'compacted', '1')
redis.call('HDEL', state, 'request', 'snapshot', 'unshown', 'prefix')
redis.call('UNLINK', log)
let_go(held, held_bytes, response_id)
for _, field in ipairs(redis.call('HKEYS', tools)) do
  if string.sub(field, 1, 8) ~= 'session:' then redis.call('HDEL', tools, field) end
end
return leave('archived', true)
