-- Renews a runner's claim. If a failover has lost the claim, or the intent as well, they are written again: the runner
-- knows both. It sends the intent ('' otherwise) only after the answer 'unknown'.
-- `is_sure`: '0' if the runner does not know yet whether it has the call. Then only an existing claim is renewed: one
-- that the runner gives back meanwhile must not come back.
-- USES redis/clock
-- KEYS state tools
-- ARGV index runner claim_ttl_ms# intent is_sure
-- -> 'kept' | 'unknown' | 'taken' | 'done' | 'gone'
if redis.call('HGET', state, 'closed') ~= '' then return 'gone' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'done' end
local claim = redis.call('HGET', tools, index .. ':claim')
if not claim and is_sure == '0' then return 'unknown' end
local holder, until_ms = string.match(claim or '', '^(%S+) (%S+)')
if claim and (holder ~= runner or tonumber(until_ms) <= 0) then return 'taken' end  -- or was given back
if redis.call('HEXISTS', tools, index .. ':intent') == 0 then
  if intent == '' then return 'unknown' end
  redis.call('HSET', tools, index .. ':intent', intent)
end
redis.call('HSET', tools, index .. ':claim', runner .. ' ' .. (now_ms() + claim_ttl_ms))
if redis.call('PTTL', tools) == -1 then redis.call('PEXPIRE', tools, redis.call('PTTL', state)) end
return 'kept'
