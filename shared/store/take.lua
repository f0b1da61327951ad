-- Takes waiting jobs, first come first served, and locks them until their handlers have returned. Takes several at once,
-- but no more than a fair share, so that a burst does not all go to the first taker.
-- A large job is taken if its bytes fit beside the taker's other large ones, or if the taker has none, however large it
-- is. Large jobs keep their order among themselves, so that none waits for ever; smaller ones may overtake them.
-- `bytes_max`: 0 for no limit. `rings_on`: '1' to wake another taker if everything left here is too large for this one.
-- USES redis/clock queue
-- KEYS queue doorbell takers
-- ARGV count_max# lock_ms scan_max# bytes_max# bytes_left# large_bytes# state_pattern rings_on
-- -> {is_left_for_bytes, job_id, score, bytes, …}; bytes: 0 for a job that is not large

-- Returns the bytes that a job makes its taker hold, if it is large: its own and those of its response's record.
local function weigh(job_id)
  if bytes_max == 0 then return 0 end
  local member = string.match(job_id, '^(.*):%d+$')
  local bytes = redis.call('STRLEN', 'arq:job:' .. job_id)
  if member then bytes = bytes + redis.call('HSTRLEN', string.format(state_pattern, member), 'request') end
  return bytes >= large_bytes and bytes or 0
end

local waiting = {}
for _, job_id in ipairs(redis.call('ZRANGE', queue, 0, scan_max - 1)) do
  if redis.call('EXISTS', 'arq:in-progress:' .. job_id) == 0 then waiting[#waiting + 1] = job_id end
end
local share = math.ceil(#waiting / math.max(1, redis.call('ZCOUNT', takers, now_ms(), '+inf')))
local left_for_bytes, taken, count = 0, {}, 0
for _, job_id in ipairs(waiting) do
  if count == math.min(share, count_max) then break end
  local bytes = weigh(job_id)
  if bytes > 0 and (left_for_bytes == 1 or bytes > bytes_left and bytes_left < bytes_max) then
    left_for_bytes = 1
  else
    redis.call('SET', 'arq:in-progress:' .. job_id, 1, 'PX', lock_ms)
    for _, value in ipairs({job_id, redis.call('ZSCORE', queue, job_id), bytes}) do taken[#taken + 1] = value end
    bytes_left, count = bytes_left - bytes, count + 1
  end
end
-- One token has woken the taker; those of the other jobs would wake others for nothing.
if count > 1 then redis.call('LPOP', doorbell, count - 1) end
if count == 0 and left_for_bytes == 1 and rings_on == '1' then
  local ttl_ms = redis.call('PTTL', queue)
  if ttl_ms > 0 then ring(queue, doorbell, ttl_ms) end
end
return {left_for_bytes, unpack(taken)}
