-- Counts what a tenant asks for a minute. `rate` is a hash of when (ms) each of its limits, `requests` and `tokens`, is whole
-- again if nothing more is asked for: what counts wears off evenly, a whole limit in a minute.
local MINUTE_MS, ROUNDING = 60000, 0.01

-- How much of a limit counts now, and when it is whole again.
local function used_of(rate, kind, limit, now)
  local whole_at = math.max(now, tonumber(redis.call('HGET', rate, kind) or 0))
  return (whole_at - now) * limit / MINUTE_MS, whole_at
end

-- How long (ms) a request has to wait for a limit. One that asks for more than there is in a minute waits for a whole limit.
-- A limit of 0 is none.
local function wait_for(rate, kind, amount, limit, now)
  if limit == 0 then return 0 end
  local over = used_of(rate, kind, limit, now) + math.min(amount, limit) - limit
  if over < ROUNDING then return 0 end
  return math.ceil(over * MINUTE_MS / limit)
end

-- Counts an amount, which is negative if it gives back.
local function use(rate, kind, amount, limit, now)
  if limit == 0 then return end
  local _, whole_at = used_of(rate, kind, limit, now)
  whole_at = whole_at + amount * MINUTE_MS / limit
  redis.call('HSET', rate, kind, string.format('%.3f', whole_at))
  local ttl_ms = math.max(1, math.ceil(whole_at - now))
  if redis.call('PTTL', rate) < ttl_ms then redis.call('PEXPIRE', rate, ttl_ms) end
end

-- What is left of each limit, and in how many ms it is whole again: four numbers, 0 where there is no limit.
local function left_of(rate, requests_max, tokens_max, now)
  local left = {}
  for _, each in ipairs({{'requests', requests_max}, {'tokens', tokens_max}}) do
    local kind, limit = unpack(each)
    local used = limit > 0 and used_of(rate, kind, limit, now) or 0
    left[#left + 1] = math.max(0, math.floor(limit - used + ROUNDING))
    left[#left + 1] = limit > 0 and math.ceil(used * MINUTE_MS / limit) or 0
  end
  return unpack(left)
end
