-- Claims a call for a runner, for `claim_ttl_ms`; `renew.lua` extends the claim.
-- A call is run once: another runner's claim, even a lapsed one, is never taken over here.
-- USES redis/clock
-- KEYS state tools
-- ARGV index runner claim_ttl_ms#
-- -> {'claimed', intent} | {'taken'} | {'done'} | {'gone'}
local intent = redis.call('HGET', tools, index .. ':intent')
local closed = redis.call('HGET', state, 'closed')
if not intent or closed ~= '' then return {'gone'} end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return {'done'} end
local claim = redis.call('HGET', tools, index .. ':claim')
if claim and string.match(claim, '^(%S+)') ~= runner then return {'taken'} end
redis.call('HSET', tools, index .. ':claim', runner .. ' ' .. (now_ms() + claim_ttl_ms))
return {'claimed', intent}
