-- Gives a lease back as lost: its owner lives, and cannot do anything with the response.
-- USES redis/clock
-- KEYS state active
-- ARGV member proof
-- -> how often the response was lost now | 0: the lease was somebody else's or is given back already, or the log is closed
local fields = redis.call('HMGET', state, 'attempt', 'closed', 'owner', 'lease_until_ms')
if not fields[1] or fields[1] .. ' ' .. fields[3] ~= proof or fields[2] ~= '' then return 0 end
if fields[4] == '0' then return 0 end  -- sent twice: it was one loss
redis.call('HSET', state, 'lease_until_ms', 0)
redis.call('ZADD', active, now_ms(), member)
return redis.call('HINCRBY', state, 'deaths', 1)
