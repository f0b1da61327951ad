-- Puts a job into arq's queue, the sorted set of all that waits, by arrival; lines it up; and puts a token into the
-- doorbell's list. The order in which jobs are taken is beside arq's queue, in keys whose names begin with its name
-- (docs/adr/0054-tenants-take-turns.md):
--   :turns        flows (what one tenant sends in one tier) with waiting jobs, by when each has its next turn
--   :costs        how much later each flow's next turn is; '': when the last turn was
--   :waiting:FLOW its jobs, by arrival
--   :flows        the flow of each of these jobs
--   :front        what is taken before all turns, takeovers, and locked jobs, in case nobody handles them
--   :large        a job that had its turn and was too large for the taker
--   :homes        of jobs that are kept for the worker that has their prefix: its name, and until when (homes.lua)
--   :home:WORKER/FLOW  those jobs, by arrival; each is in its flow, too
-- No machine's clock decides what is due (arq takes scores up to its own `now`).

local DOORBELL_LENGTH_MAX = 1024
local HOME_MS = 120000  -- longer than a job is kept for a worker

local function keep(key, ttl_ms)
  if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
end

local function ring(queue, doorbell, ttl_ms)
  redis.call('RPUSH', doorbell, '1')
  redis.call('LTRIM', doorbell, -DOORBELL_LENGTH_MAX, -1)
  redis.call('PEXPIRE', doorbell, ttl_ms)
  for _, part in ipairs({'', ':turns', ':costs', ':flows'}) do keep(queue .. part, ttl_ms) end
end

-- What is there is taken by arrival; locked jobs have the time instead, which is far greater than any place in the queue.
local function put_to_front(queue, job_id, ttl_ms)
  redis.call('ZADD', queue .. ':front', redis.call('ZSCORE', queue, job_id), job_id)
  keep(queue .. ':front', ttl_ms)
end

-- Keeps a job for a worker; if its time is over already, anybody may take it.
local function keep_for(home, queue, job_id, ttl_ms, flow)
  local own = queue .. ':home:' .. home.worker .. '/' .. flow
  redis.call('HSET', queue .. ':homes', job_id, home.worker .. ' ' .. home.until_ms)
  redis.call('RPUSH', own, job_id)
  for _, key in ipairs({queue .. ':homes', own}) do keep(key, math.min(ttl_ms, HOME_MS)) end
end

-- `flow`: '' for a job that is taken before all turns. `home`: the worker for which it is kept for a while (`homes.lua`),
-- until when, and its bell, if it alone is woken; nil if there is none.
local function enqueue(queue, doorbell, job_key, job_id, job, ttl_ms, flow, cost, home)
  local last = redis.call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
  redis.call('SET', job_key, job, 'PX', ttl_ms)
  redis.call('ZADD', queue, last[2] and tonumber(last[2]) + 1 or 1, job_id)
  if flow == '' then
    put_to_front(queue, job_id, ttl_ms)
  else
    local waiting, last_turn = queue .. ':waiting:' .. flow, redis.call('HGET', queue .. ':costs', '') or 0
    redis.call('RPUSH', waiting, job_id)
    keep(waiting, ttl_ms)
    redis.call('HSET', queue .. ':flows', job_id, flow)
    redis.call('HSET', queue .. ':costs', flow, cost)
    redis.call('ZADD', queue .. ':turns', 'NX', last_turn + cost, flow)  -- a flow that waits already keeps its turn
    if home then
      keep_for(home, queue, job_id, ttl_ms, flow)
      doorbell = home.bell or doorbell
    end
  end
  ring(queue, doorbell, ttl_ms)
end

-- Rings again for a job that waits, and keeps what it needs. One that has lost its place is taken before all turns.
local function keep_waiting(queue, doorbell, job_id, ttl_ms)
  redis.call('PEXPIRE', 'arq:job:' .. job_id, ttl_ms)
  local flow = redis.call('HGET', queue .. ':flows', job_id)
  local has_place = flow and redis.call('EXISTS', queue .. ':waiting:' .. flow) == 1
    and redis.call('ZSCORE', queue .. ':turns', flow)
  if not (has_place or redis.call('ZSCORE', queue .. ':large', job_id)) then
    put_to_front(queue, job_id, ttl_ms)
  end
  if flow then keep(queue .. ':waiting:' .. flow, ttl_ms) end
  keep(queue .. ':large', ttl_ms)
  ring(queue, doorbell, ttl_ms)
end

-- Called with the number of jobs that were taken, other than those of which the taker's own bell told. One token has woken
-- the taker; those of the other jobs would wake others for nothing. `rings_on`: if none was taken, another taker is woken.
local function after_taking(queue, doorbell, count, rings_on)
  if count > 1 then redis.call('LPOP', doorbell, count - 1) end
  if count > 0 or not rings_on then return end
  local ttl_ms = redis.call('PTTL', queue)
  if ttl_ms > 0 then ring(queue, doorbell, ttl_ms) end
end
