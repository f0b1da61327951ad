-- Takes jobs that wait, first come first served, and locks them until they are taken in hand. Several are taken
-- together, but no more than a fair share, so that a burst does not all go to the one that looks first.
-- KEYS queue doorbell takers    ARGV count_max lock_ms scan_max    -> {job_id, score, …}
local queue, doorbell, takers = unpack(KEYS)
local count_max, lock_ms = tonumber(ARGV[1]), ARGV[2]

local waiting = {}
for _, job_id in ipairs(redis.call('ZRANGE', queue, 0, tonumber(ARGV[3]) - 1)) do
  if redis.call('EXISTS', 'arq:in-progress:' .. job_id) == 0 then waiting[#waiting + 1] = job_id end
end
local share = math.ceil(#waiting / math.max(1, redis.call('ZCOUNT', takers, now_ms(), '+inf')))
local taken = {}
for i = 1, math.min(share, count_max) do
  redis.call('SET', 'arq:in-progress:' .. waiting[i], 1, 'PX', lock_ms)
  taken[#taken + 1] = waiting[i]
  taken[#taken + 1] = redis.call('ZSCORE', queue, waiting[i])
end
-- One token has woken the taker; those of the other jobs would wake somebody for nothing.
if #taken > 2 then redis.call('LPOP', doorbell, #taken / 2 - 1) end
return taken
