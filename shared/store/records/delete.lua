-- Deletes a closed response with all its keys.
-- USES records/held
-- KEYS state log tools archive closed_logs held held_bytes
-- ARGV member response_id
-- -> 'deleted' | 'open' | 'missing'
local closed = redis.call('HGET', state, 'closed')
if not closed then return 'missing' end
if closed == '' then return 'open' end
redis.call('UNLINK', state, log, tools, archive)
redis.call('ZREM', closed_logs, member)
let_go(held, held_bytes, response_id)
return 'deleted'
