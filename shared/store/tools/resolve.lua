-- Journals the worker's own verdict on a call without a result, unless a result came first or the claim has changed: it
-- must still be the one that was judged, or any of that runner ('<runner> '), or none ('').
-- `lost_after_ms`: if not 0, the verdict is that the claim was not renewed, which holds only if this server has been
-- steady for so long: it may have become the primary since, where nothing has been renewed yet.
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
