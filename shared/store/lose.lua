-- Gives a lease back as lost: its owner lives, and cannot do anything with the response.
-- KEYS state active    ARGV member fencing_token
-- -> how often the response was lost now | 0: the lease was somebody else's, or the log is closed
local state, active = unpack(KEYS)
local fields = redis.call('HMGET', state, 'attempt', 'closed')
if fields[1] ~= ARGV[2] or fields[2] ~= '' then return 0 end
redis.call('HSET', state, 'lease_until_ms', 0)
redis.call('ZADD', active, now_ms(), ARGV[1])
return redis.call('HINCRBY', state, 'deaths', 1)
