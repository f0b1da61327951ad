-- Chooses waiting jobs for a taker that has room for some (`queue.lua` names the keys). Several at once, but no more than
-- a fair share, so that a burst does not all go to the first taker. First what is before all turns; then one job of the
-- flow whose turn is next, which then has its next turn as much later as a turn of it costs; and so on.
-- A tenant that has as many responses at the taker as it may while others wait is passed over while others wait.
-- A large job is chosen if its bytes fit beside the taker's other large ones, or if the taker has none, however large it
-- is. The first that does not fit keeps its place before all other large ones, so that none waits for ever; smaller ones
-- may overtake it.
-- When a flow has its turn, one of its jobs that is kept for the taker is chosen first, unless that overtakes too many; one
-- that is kept for another worker is left to it for a while (`homes.lua`).

local OVERTAKEN_MAX = 8  -- by how many that came later, for each taker, a job may be overtaken within its flow
local RESERVED_MAX = 16  -- how many jobs that are kept for others a claim leaves; those beyond it are taken
local LOOKED_AT = 16  -- how far behind large jobs a smaller one of the same flow is looked for
local COST = 10000  -- of a flow whose cost is lost; that of the default tier (`shared/service_tiers.py`)

-- Returns the bytes that a job makes its taker hold, if it is large: its own and those of its response's record.
local function weigh(job_id, room)
  if room.bytes_max == 0 then return 0 end
  local member = string.match(job_id, '^(.*):%d+$')
  local bytes = redis.call('STRLEN', 'arq:job:' .. job_id)
  if member then bytes = bytes + redis.call('HSTRLEN', string.format(room.state_pattern, member), 'request') end
  return bytes >= room.large_bytes and bytes or 0
end

local function has_room(bytes, bytes_left, bytes_max)
  return bytes == 0 or bytes <= bytes_left or bytes_left >= bytes_max
end

-- Returns what is before all turns and not locked, and the number of locked jobs.
local function look_at_front(queue, scan_max)
  local front, locked = {}, 0
  for _, job_id in ipairs(redis.call('ZRANGE', queue .. ':front', 0, scan_max - 1)) do
    if not redis.call('ZSCORE', queue, job_id) then
      redis.call('ZREM', queue .. ':front', job_id)
    elseif redis.call('EXISTS', 'arq:in-progress:' .. job_id) == 1 then
      locked = locked + 1
    else
      front[#front + 1] = job_id
    end
  end
  return front, locked
end

-- A flow without jobs vanishes; so does all memory of turns once nothing waits.
local function forget_flow(queue, flow)
  redis.call('ZREM', queue .. ':turns', flow)
  redis.call('HDEL', queue .. ':costs', flow)
  if redis.call('EXISTS', queue .. ':turns') == 0 then redis.call('DEL', queue .. ':costs', queue .. ':flows') end
end

local function leave_flow(queue, flow, job_id)
  redis.call('LREM', queue .. ':waiting:' .. flow, 1, job_id)
  redis.call('HDEL', queue .. ':flows', job_id)
  redis.call('HDEL', queue .. ':homes', job_id)
  if redis.call('EXISTS', queue .. ':waiting:' .. flow) == 0 then forget_flow(queue, flow) end
end

-- One of its jobs has had the flow's turn. What a flow that was passed over has missed is not made up for. A job from
-- further behind stays in the list until it comes to its head.
local function end_turn(queue, flow, turn, job_id, is_behind)
  local costs = queue .. ':costs'
  local now = math.max(turn, tonumber(redis.call('HGET', costs, '') or 0))
  redis.call('HSET', costs, '', now)  -- first, because Redis refuses it if it is out of memory
  redis.call('ZADD', queue .. ':turns', now + tonumber(redis.call('HGET', costs, flow) or COST), flow)
  if is_behind then
    redis.call('HDEL', queue .. ':flows', job_id)
    redis.call('HDEL', queue .. ':homes', job_id)
  else
    leave_flow(queue, flow, job_id)
  end
end

-- Returns the jobs as {id, bytes} (0 if it is not large), and 1 if one is left because of its bytes, or else 0; and how
-- many were kept for the taker.
local function choose_jobs(queue, takers, now, room)
  local front, locked = look_at_front(queue, room.scan_max)
  local waiting = redis.call('ZCARD', queue) - locked
  local present = math.max(1, redis.call('ZCOUNT', takers, now, '+inf'))
  local share, homes, kept, reserved = math.ceil(waiting / present), queue .. ':homes', 0, 0
  local has_homes = redis.call('EXISTS', homes) == 1
  local limit, looks = math.min(share, room.count_max), room.scan_max
  local chosen, is_chosen, left_for_bytes, bytes_left = {}, {}, 0, room.bytes_left

  local function is_gone(job_id)
    return is_chosen[job_id] or not redis.call('ZSCORE', queue, job_id)
      or redis.call('EXISTS', 'arq:in-progress:' .. job_id) == 1
  end

  local function choose(job_id)
    local bytes = weigh(job_id, room)
    if bytes > 0 and left_for_bytes == 1 or not has_room(bytes, bytes_left, room.bytes_max) then
      left_for_bytes = 1
      return false
    end
    chosen[#chosen + 1], is_chosen[job_id], bytes_left = {job_id, bytes}, true, bytes_left - bytes
    return true
  end

  local function take_large()
    while true do
      local job_id = redis.call('ZRANGE', queue .. ':large', 0, 0)[1]
      if not job_id or not is_gone(job_id) and (#chosen == limit or not choose(job_id)) then return end
      redis.call('ZREM', queue .. ':large', job_id)
    end
  end

  -- Those that the version before has put into arq's queue alone; what still waits after `ring_again_s` gets to the front.
  local function take_unplaced()
    for place = 0, LOOKED_AT - 1 do
      local job_id = redis.call('ZRANGE', queue, place, place)[1]
      if #chosen == limit or not job_id or redis.call('HEXISTS', queue .. ':flows', job_id) == 1 then return end
      if not is_gone(job_id) and not redis.call('ZSCORE', queue .. ':large', job_id) then choose(job_id) end
    end
  end

  -- Returns true if a job is kept for another worker, for now.
  local function is_reserved(job_id)
    if not has_homes or reserved == RESERVED_MAX then return false end
    local worker, until_ms = string.match(redis.call('HGET', homes, job_id) or '', '^(%S+) (%d+)$')
    if not worker or worker == room.owner or tonumber(until_ms) <= now then return false end
    reserved = reserved + 1
    return true
  end

  -- Takes a turn of the flow for a job that is kept for this taker; returns true if there is one.
  local function take_own(flow, turn)
    local own, first = queue .. ':home:' .. room.owner .. '/' .. flow, queue .. ':waiting:' .. flow
    while looks > 0 do
      looks = looks - 1
      local job_id = redis.call('LINDEX', own, 0)
      if not job_id then return false end
      if is_gone(job_id) then
        redis.call('LPOP', own)
      else
        local head = redis.call('LINDEX', first, 0)
        local place = redis.call('ZSCORE', queue, job_id)
        local overtaken = head and place - (redis.call('ZSCORE', queue, head) or place) or 0
        if overtaken > OVERTAKEN_MAX * present or not choose(job_id) then return false end
        redis.call('LPOP', own)
        end_turn(queue, flow, turn, job_id, head ~= job_id)
        kept = kept + 1
        return true
      end
    end
    return false
  end

  -- Returns 'next' if the flow has had its turn or has changed, 'pass' if it has nothing for this taker, 'full'.
  local function take_turn(flow, turn)
    local place = 0
    if has_homes and room.owner and #chosen < limit and take_own(flow, turn) then return 'next' end
    while place < LOOKED_AT and looks > 0 do
      looks = looks - 1
      local job_id = redis.call('LINDEX', queue .. ':waiting:' .. flow, place)
      if not job_id then break end
      local is_first_left = left_for_bytes == 0
      if is_gone(job_id) then
        -- A worker of the version before locks a job where it stands.
        if redis.call('ZSCORE', queue, job_id) then put_to_front(queue, job_id, redis.call('PTTL', queue)) end
        leave_flow(queue, flow, job_id)
        if place == 0 then return 'next' end
      elseif #chosen == limit then
        return 'full'
      elseif is_reserved(job_id) then
        place = place + 1
      elseif choose(job_id) then
        end_turn(queue, flow, turn, job_id)
        return 'next'
      elseif is_first_left then
        redis.call('ZADD', queue .. ':large', 'NX', now, job_id)
        keep(queue .. ':large', math.max(1, redis.call('PTTL', queue)))
        end_turn(queue, flow, turn, job_id)
        return 'next'
      else
        place = place + 1
      end
    end
    if redis.call('EXISTS', queue .. ':waiting:' .. flow) == 1 then return 'pass' end
    forget_flow(queue, flow)
    return 'next'
  end

  -- Passes over tenants that have `crowd_max` responses at the taker (0: none); returns true if there was one.
  local function take_turns(crowd_max)
    local passed, has_crowd = 0, false
    while looks > 0 do
      looks = looks - 1
      local flow, turn = unpack(redis.call('ZRANGE', queue .. ':turns', passed, passed, 'WITHSCORES'))
      if not flow then break end
      local tenant, tier = string.match(flow, '^(.*)/(.-)$')
      local has, before = tier ~= 'count' and tonumber(room.held[tenant] or 0) or 0, #chosen
      local is_crowd, outcome = crowd_max > 0 and has >= crowd_max, 'pass'
      -- For what is `flex` nobody is passed over.
      if not (is_crowd or has_crowd and tier == 'flex') then outcome = take_turn(flow, tonumber(turn)) end
      has_crowd = has_crowd or is_crowd
      if outcome == 'full' then break end
      if outcome == 'pass' then passed = passed + 1 end
      if #chosen > before and tier ~= 'count' then room.held[tenant] = has + 1 end
    end
    return has_crowd
  end

  for _, job_id in ipairs(front) do
    if #chosen < limit then choose(job_id) end
  end
  take_large()
  take_unplaced()
  if take_turns(room.crowd_max) and #chosen < limit then take_turns(0) end
  return chosen, left_for_bytes, kept
end

-- Keeps a job from other takers until its handler has returned; returns its place in the queue. If nobody handles it, it
-- is before all turns.
local function lock_job(queue, job_id, now, lock_ms)
  redis.call('SET', 'arq:in-progress:' .. job_id, 1, 'PX', lock_ms)
  redis.call('ZADD', queue .. ':front', now + lock_ms, job_id)
  keep(queue .. ':front', math.max(lock_ms, redis.call('PTTL', queue)))
  return redis.call('ZSCORE', queue, job_id)
end
