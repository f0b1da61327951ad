-- Deletes a closed response with all its keys.
-- USES records/held records/listed
-- KEYS state log tools archive closed_logs held held_bytes listed
-- ARGV member response_id
-- -> 'deleted' | 'open' | 'missing'
local closed, members = unpack(redis.call('HMGET', state, 'closed', 'members'))
if not closed then return 'missing' end
if closed == '' then return 'open' end
redis.call('UNLINK', state, log, tools, archive)
redis.call('ZREM', closed_logs, member)
let_go(held, held_bytes, response_id)
if members then
  for _, group in ipairs({'', closed}) do delist(listed, group, members, response_id) end
end
return 'deleted'
