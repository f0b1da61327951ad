-- Claims closed logs that are due for archiving, for `claim_ms`. If the worker dies, or never gets the reply, they
-- fall due again.
-- USES redis/clock
-- KEYS closed_logs
-- ARGV count_max claim_ms#
-- -> members
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', closed_logs, '-inf', now, 'LIMIT', 0, count_max)
for _, member in ipairs(due) do redis.call('ZADD', closed_logs, 'XX', now + claim_ms, member) end
return due
