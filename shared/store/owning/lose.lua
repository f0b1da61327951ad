-- Releases a lease, counted as a lost owner: the owner is alive but cannot continue the response.
-- USES redis/clock
-- KEYS state active
-- ARGV member proof
-- -> the number of lost owners | 0 if the lease is another owner's or released already, or the log is closed
local fields = redis.call('HMGET', state, 'attempt', 'closed', 'owner', 'lease_until_ms')
if not fields[1] or fields[1] .. ' ' .. fields[3] ~= proof or fields[2] ~= '' then return 0 end
if fields[4] == '0' then return 0 end  -- sent twice, which is one loss
local now = now_ms()
redis.call('HSET', state, 'lease_until_ms', 0, 'left_ms', now)
redis.call('ZADD', active, now, member)
return redis.call('HINCRBY', state, 'deaths', 1)
