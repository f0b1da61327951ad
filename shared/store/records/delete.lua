-- Deletes a closed response and all that belongs to it.
-- KEYS state log tools archive closed_logs held held_bytes    ARGV member response_id
-- -> 'deleted' | 'open' | 'missing'
local closed = redis.call('HGET', KEYS[1], 'closed')
if not closed then return 'missing' end
if closed == '' then return 'open' end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[1])
let_go(KEYS[6], KEYS[7], ARGV[2])
return 'deleted'
