-- Gives a lease under a fencing token, until a time of Redis's clock. `lost`: 1 if an owner was lost. Returns the number
-- of owners lost so far. Who was given the first leases, and until when at first, is kept for operators.
local GRANTS_KEPT = 64

local function grant(state, active, member, owner, token, lease_until, format_needed, lost)
  redis.call('HSET', state, 'attempt', token, 'owner', owner, 'lease_until_ms', lease_until,
    'format_needed', format_needed)
  if token <= GRANTS_KEPT then redis.call('HSET', state, 'grant:' .. token, lease_until .. ' ' .. owner) end
  redis.call('ZADD', active, lease_until, member)
  return redis.call('HINCRBY', state, 'deaths', lost)
end
