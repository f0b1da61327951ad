-- Takes waiting jobs as `take.lua` does. Those of responses that have had no owner leave the queue, and the taker gets
-- the leases in the same run, with all that an attempt begins with; a lease that its owner cannot keep lapses, and is
-- then rung for. All other jobs are locked until their handlers have returned: counts, responses that have had an owner,
-- that need an owner of a later version, or whose record is large and is read by itself.
-- `granted` names the responses whose leases the last run gave to this owner. If its reply was lost (`has_heard`: '0'),
-- nobody renews them, and their owner has to acquire them again.
-- `hush`: exists once the owner takes nothing more.
-- `running`: how many responses of the owner's do not wait for tools; `capacity`: how many it can run at once.
-- `crowd_max`: how many responses a tenant may have at the owner while others wait; `tenant responses`: what those have
-- that could reach it in this run.
-- `queues`: those of the models that the taker serves, each with a space behind it. The first that is not empty has the
-- larger part of the room; the taker begins with another one each time. Turns and shares are each queue's own.
-- USES redis/clock queue taking owning/granting
-- KEYS takers active granted hush bell
-- ARGV lock_ms# scan_max# bytes_max# large_bytes# state_pattern log_pattern owner lease_ttl_ms# known_format#
--      granted_ttl_ms queues running# capacity# crowd_max# count_max# bytes_left# rings_on has_heard (tenant responses)…
-- -> {is_left_for_bytes, {unheard_member, …}, {{queue, job_id, score, bytes, …}, …},
--     {member, fencing_token, next_sequence_number, deaths, format, request, age_ms, …}}
local FULL = 1000
local unheard = {}
if has_heard == '1' then redis.call('DEL', granted) else unheard = redis.call('SMEMBERS', granted) end
if redis.call('EXISTS', hush) == 1 then  -- it stops; a token that has woken it is for another taker
  for queue in string.gmatch(queues, '%S+') do after_taking(queue, queue .. ':doorbell', 0, true) end
  return {0, unheard, {}, {}}
end
local now = now_ms()

-- Returns what the first owner begins with, or nil for any other job.
local function claim(queue, job_id, bytes)
  local member = string.match(job_id, '^(.*):%d+$')
  if not member or bytes > 0 then return nil end
  local state = string.format(state_pattern, member)
  local fields = redis.call('HMGET', state, 'attempt', 'closed', 'lease_until_ms', 'format', 'request', 'created_ms',
    'prefix')
  local format = tonumber(fields[4] or 1)  -- the first records had no number
  if fields[1] ~= '0' or fields[2] ~= '' or fields[3] ~= '0' or format > known_format then return nil end
  local deaths = grant(state, active, member, owner, 1, now + lease_ttl_ms, known_format, 0)
  name_home(fields[7], owner)
  redis.call('ZREM', queue, job_id)
  redis.call('DEL', 'arq:job:' .. job_id, 'arq:retry:' .. job_id)
  redis.call('SADD', granted, member)
  return {member, 1, redis.call('XLEN', string.format(log_pattern, member)), deaths, format, fields[5],
    now - tonumber(fields[6] or now)}
end

local held = {}
for i = REST, #ARGV, 2 do held[ARGV[i]] = tonumber(ARGV[i + 1]) end
local waiting, is_left, taken, begun, count = {}, 0, {}, {}, 0

local function room_of(places)
  return {
    owner = owner, count_max = places, scan_max = scan_max, bytes_max = bytes_max, bytes_left = bytes_left,
    large_bytes = large_bytes, state_pattern = state_pattern, crowd_max = crowd_max, held = held,
  }
end

for queue in string.gmatch(queues, '%S+') do
  if redis.call('EXISTS', queue) == 1 then
    waiting[#waiting + 1] = queue
  elseif redis.call('EXISTS', queue .. ':front', queue .. ':turns', queue .. ':large') > 0 then
    choose_jobs(queue, takers, now, room_of(0))  -- forgets what has gone
  end
end
-- How full it is now (`homes.lua`); it announces that as well. If it has taken all that it has room for, it is full: until it
-- looks again, continuations do not wait for it.
local function note_load()
  local load = math.min(FULL - 1, math.floor((running + count) * FULL / capacity))
  if count == count_max then load = FULL end
  for queue in string.gmatch(queues, '%S+') do redis.call('ZADD', queue .. ':loads', 'XX', load, owner) end
end

for place, queue in ipairs(waiting) do
  local room = room_of(math.ceil((count_max - count) / (#waiting - place + 1)))
  local chosen, left_for_bytes, kept = choose_jobs(queue, takers, now, room)
  local locked = {queue}
  for _, job in ipairs(chosen) do
    local job_id, bytes = unpack(job)
    local own = claim(queue, job_id, bytes)
    local list = own and begun or locked
    for _, value in ipairs(own or {job_id, lock_job(queue, job_id, now, lock_ms), bytes}) do list[#list + 1] = value end
    count, bytes_left = count + 1, bytes_left - bytes
  end
  if #locked > 1 then taken[#taken + 1] = locked end
  is_left = math.max(is_left, left_for_bytes)
  if kept > 1 then redis.call('LPOP', bell, kept - 1) end
  after_taking(queue, queue .. ':doorbell', #chosen - kept, left_for_bytes == 1 and rings_on == '1')
end
if count > 0 then note_load() end
if #begun > 0 then redis.call('PEXPIRE', granted, granted_ttl_ms) end
return {is_left, unheard, taken, begun}
