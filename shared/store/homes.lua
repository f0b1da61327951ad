-- Whether a continuation is kept for the worker that has its prefix in cache (docs/adr/0061-continuations-go-home.md).

local FULL = 1000
local UNHEARD_MAX = 4  -- a worker with more tokens in its own bell does not keep up

-- Returns the home of a job, or nil: if that worker has gone, does not serve the queue, or is fuller than half of the
-- others by more than `margin`. For one that is full it does not wait, but is listed, so that it takes it first if it is
-- the first to have room. `:loads` is how full each worker of a queue is, of FULL: as it has announced, or as its last
-- claim that took something has left it.
local function find_home(queue, takers, worker, bell_pattern, now, wait_ms, margin)
  if wait_ms == 0 or not worker or worker == '' then return nil end
  local loads = queue .. ':loads'
  local load = tonumber(redis.call('ZSCORE', loads, worker))
  if not load then return nil end
  if tonumber(redis.call('ZSCORE', takers, worker) or 0) < now then return nil end
  local middle = math.floor((redis.call('ZCARD', loads) - 1) / 2)
  if load - tonumber(redis.call('ZRANGE', loads, middle, middle, 'WITHSCORES')[2]) > margin then return nil end
  if load >= FULL then return {worker = worker, until_ms = now} end
  local bell = string.format(bell_pattern, worker)
  if redis.call('LLEN', bell) > UNHEARD_MAX then return nil end
  return {worker = worker, bell = bell, until_ms = now + wait_ms}
end
