-- Puts an arq job into its queue and a token into the doorbell's list. Scores count up, so that jobs keep the order of
-- their arrival, and no machine's clock decides what is due (arq takes scores up to its own `now`).

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

-- Called with the number of jobs that were taken. One token has woken the taker; those of the other jobs would wake
-- others for nothing. `rings_on`: if none was taken, another taker is woken.
local function after_taking(queue, doorbell, count, rings_on)
  if count > 1 then redis.call('LPOP', doorbell, count - 1) end
  if count > 0 or not rings_on then return end
  local ttl_ms = redis.call('PTTL', queue)
  if ttl_ms > 0 then ring(queue, doorbell, ttl_ms) end
end
