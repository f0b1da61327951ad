-- Takes closed logs that are due, for a while: nobody else archives them meanwhile. Those of a worker that
-- dies, or that never hears this answer, fall due again.
-- KEYS closed_logs    ARGV count_max claim_ms    -> members
local closed_logs, claim_ms = KEYS[1], tonumber(ARGV[2])
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', closed_logs, '-inf', now, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do redis.call('ZADD', closed_logs, 'XX', now + claim_ms, member) end
return due
