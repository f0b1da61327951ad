-- Accounts for the bytes of a tenant's records that are not archived yet, and of its pending token counts.
-- `held` is a sorted set of what counts, by when (ms) it ceases to; `held_bytes` a hash of the bytes and their sum.
-- What is never let go of (a log that expires before it is archived) lapses, and is removed when the total is next read.
local HELD_TOTAL, HELD_LAPSED_MAX = 'total', 100

local function let_go(held, held_bytes, name)
  local bytes = redis.call('HGET', held_bytes, name)
  if not bytes then return end
  redis.call('HINCRBY', held_bytes, HELD_TOTAL, -tonumber(bytes))  -- first, because a Redis out of memory refuses it
  redis.call('HDEL', held_bytes, name)
  redis.call('ZREM', held, name)
end

local function held_total(held, held_bytes, now)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now, 'LIMIT', 0, HELD_LAPSED_MAX)) do
    let_go(held, held_bytes, name)
  end
  return tonumber(redis.call('HGET', held_bytes, HELD_TOTAL) or 0)
end

local function hold(held, held_bytes, name, bytes, now, ttl_ms)
  if redis.call('HSETNX', held_bytes, name, bytes) == 0 then return end  -- sent twice
  redis.call('HINCRBY', held_bytes, HELD_TOTAL, bytes)
  redis.call('ZADD', held, now + ttl_ms, name)
  for _, key in ipairs({held, held_bytes}) do
    if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
  end
end
