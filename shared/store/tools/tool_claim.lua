-- A runner takes a call for `claim_ttl_ms`; `tool_renew` keeps it then.
-- A call is run once: a claim of somebody else, even a lapsed one, is never taken over here.
-- KEYS state tools    ARGV call_index runner claim_ttl_ms
-- -> {'claimed', intent} | {'taken'} | {'done'} | {'gone'}
local state, tools = unpack(KEYS)
local index, runner, claim_ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

local intent = redis.call('HGET', tools, index .. ':intent')
local closed = redis.call('HGET', state, 'closed')
if not intent or closed ~= '' then return {'gone'} end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return {'done'} end
local claim = redis.call('HGET', tools, index .. ':claim')
if claim and string.match(claim, '^(%S+)') ~= runner then return {'taken'} end
redis.call('HSET', tools, index .. ':claim', runner .. ' ' .. (now_ms() + claim_ttl_ms))
return {'claimed', intent}
