-- Takes waiting jobs (`taking.lua` says which), and locks them until their handlers have returned.
-- `bytes_max`: 0 for no limit. `rings_on`: '1' to wake another taker if everything left here is too large for this one.
-- USES redis/clock queue taking
-- KEYS queue doorbell takers
-- ARGV count_max# lock_ms# scan_max# bytes_max# bytes_left# large_bytes# state_pattern rings_on
-- -> {is_left_for_bytes, job_id, score, bytes, …}; bytes: 0 for a job that is not large
local now = now_ms()
local chosen, left_for_bytes = choose_jobs(queue, takers, now, {
  count_max = count_max, scan_max = scan_max, bytes_max = bytes_max, bytes_left = bytes_left,
  large_bytes = large_bytes, state_pattern = state_pattern, crowd_max = 0, held = {},
})
local taken = {}
for _, job in ipairs(chosen) do
  local job_id, bytes = unpack(job)
  for _, value in ipairs({job_id, lock_job(queue, job_id, now, lock_ms), bytes}) do taken[#taken + 1] = value end
end
after_taking(queue, doorbell, #chosen, left_for_bytes == 1 and rings_on == '1')
return {left_for_bytes, unpack(taken)}
