-- Chooses waiting jobs, first come first served, for a taker that has room for some. Several at once, but no more than a
-- fair share, so that a burst does not all go to the first taker.
-- A large job is chosen if its bytes fit beside the taker's other large ones, or if the taker has none, however large it
-- is. Large jobs keep their order among themselves, so that none waits for ever; smaller ones may overtake them.

-- Returns the bytes that a job makes its taker hold, if it is large: its own and those of its response's record.
local function weigh(job_id, room)
  if room.bytes_max == 0 then return 0 end
  local member = string.match(job_id, '^(.*):%d+$')
  local bytes = redis.call('STRLEN', 'arq:job:' .. job_id)
  if member then bytes = bytes + redis.call('HSTRLEN', string.format(room.state_pattern, member), 'request') end
  return bytes >= room.large_bytes and bytes or 0
end

-- Returns the jobs as {id, bytes} (0 if it is not large), and 1 if one is left because of its bytes, or else 0.
local function choose_jobs(queue, takers, now, room)
  local waiting = {}
  for _, job_id in ipairs(redis.call('ZRANGE', queue, 0, room.scan_max - 1)) do
    if redis.call('EXISTS', 'arq:in-progress:' .. job_id) == 0 then waiting[#waiting + 1] = job_id end
  end
  local share = math.ceil(#waiting / math.max(1, redis.call('ZCOUNT', takers, now, '+inf')))
  local left_for_bytes, bytes_left, chosen = 0, room.bytes_left, {}
  for _, job_id in ipairs(waiting) do
    if #chosen == math.min(share, room.count_max) then break end
    local bytes = weigh(job_id, room)
    if bytes > 0 and (left_for_bytes == 1 or bytes > bytes_left and bytes_left < room.bytes_max) then
      left_for_bytes = 1
    else
      chosen[#chosen + 1] = {job_id, bytes}
      bytes_left = bytes_left - bytes
    end
  end
  return chosen, left_for_bytes
end

-- Keeps a job from other takers until its handler has returned; returns its place in the queue.
local function lock_job(queue, job_id, lock_ms)
  redis.call('SET', 'arq:in-progress:' .. job_id, 1, 'PX', lock_ms)
  return redis.call('ZSCORE', queue, job_id)
end
