-- Journals the worker's own verdict on a call that never answered, unless a result came first or the call has
-- moved on: its claim must still be the one that was judged, or still be of that runner ('<runner> '), or none ('').
-- What was judged as lost is so only on a server that has been steady (`lost_after_ms`; 0: it is not about that):
-- it may have become the primary since, and nobody has renewed anything there yet.
-- USES redis/clock owning/pulse
-- KEYS state tools pulse
-- ARGV proof index result judged lost_after_ms#
-- -> {'stands', result} | {'moved'} | {'fenced'}
local fields = redis.call('HMGET', state, 'attempt', 'closed', 'owner')
if not fields[1] or fields[1] .. ' ' .. fields[3] ~= proof or fields[2] ~= '' then return {'fenced'} end
local known = redis.call('HGET', tools, index .. ':result')
if known then return {'stands', known} end
local claim = redis.call('HGET', tools, index .. ':claim') or ''
local is_of_runner = string.sub(judged, -1) == ' ' and string.sub(claim, 1, #judged) == judged
if claim ~= judged and not is_of_runner then return {'moved'} end
if lost_after_ms > 0 and not is_steady(pulse, now_ms(), lost_after_ms) then return {'moved'} end
redis.call('HSET', tools, index .. ':result', result)
if redis.call('PTTL', tools) == -1 then redis.call('PEXPIRE', tools, redis.call('PTTL', state)) end
return {'stands', result}
