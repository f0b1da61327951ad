-- Prelude of every script.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Which history this server writes, and which one it went on from when it became the primary.
local function histories()
  local about = redis.call('INFO', 'replication')
  return string.match(about, 'master_replid:(%x+)') or '', string.match(about, 'master_replid2:(%x+)')
end

-- Whether this server has been there for `ttl_ms` without a break, and as the primary, as far as sweepers can tell
-- (`lapsed.lua`): only then has whoever did not renew something in that time lost it. Where nobody sweeps, nothing
-- speaks against it.
local function is_steady(pulse, now, ttl_ms)
  local since, heard, history = unpack(redis.call('HMGET', pulse, 'since_ms', 'heard_ms', 'history'))
  if not since then return true end
  local silence_ms = now - tonumber(heard)
  if silence_ms < 0 or silence_ms > ttl_ms / 2 or now - tonumber(since) < ttl_ms then return false end
  return not history or history == histories()
end

-- Puts an arq job into its queue and a token into the doorbell's list. Scores count up, so that order is the
-- order of arrival and no machine's wall clock decides what is due (arq takes scores up to its own `now`).

local DOORBELL_LENGTH_MAX = 1024

local function ring(queue, doorbell, ttl_ms)
  redis.call('RPUSH', doorbell, '1')
  redis.call('LTRIM', doorbell, -DOORBELL_LENGTH_MAX, -1)
  redis.call('PEXPIRE', doorbell, ttl_ms)
  if redis.call('EXISTS', queue) == 1 then redis.call('PEXPIRE', queue, ttl_ms) end
end

local function enqueue(queue, doorbell, job_key, job_id, job, ttl_ms)
  local last = redis.call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
  local score = last[2] and tonumber(last[2]) + 1 or 1
  redis.call('SET', job_key, job, 'PX', ttl_ms)
  redis.call('ZADD', queue, score, job_id)
  ring(queue, doorbell, ttl_ms)
end
