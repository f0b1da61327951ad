-- Gives a lease under a fencing token, until a time of Redis's clock. `lost`: 1 if an owner was lost. Returns the number
-- of owners lost so far. Who was given the first leases, until when at first, and when the owner before had let go
-- ('left') or would have had to renew ('held'), is kept for operators.
local GRANTS_KEPT = 64
local PREFIX_MS = 600000  -- caches have forgotten a prefix that nobody has asked for in this time, or soon will have

local function describe_parting(state)
  local held_until, left = unpack(redis.call('HMGET', state, 'lease_until_ms', 'left_ms'))
  if held_until ~= '0' then return ' held ' .. held_until end
  return left and ' left ' .. left or ''
end

local function grant(state, active, member, owner, token, lease_until, format_needed, lost)
  if token <= GRANTS_KEPT then
    local parting = token > 1 and describe_parting(state) or ''
    redis.call('HSET', state, 'grant:' .. token, lease_until .. ' ' .. owner .. parting)
  end
  redis.call('HSET', state, 'attempt', token, 'owner', owner, 'lease_until_ms', lease_until,
    'format_needed', format_needed)
  redis.call('ZADD', active, lease_until, member)
  return redis.call('HINCRBY', state, 'deaths', lost)
end

-- Names the owner to those who ask for the same prefix next (`homes.lua`). `prefix`: the key of its name, or nothing.
local function name_home(prefix, owner)
  if prefix then redis.call('SET', prefix, owner, 'PX', PREFIX_MS) end
end
