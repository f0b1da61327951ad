-- Journals a result, once, and notifies the worker that waits for it. The result also counts if a failover has lost the
-- claim, or if the call was queued again and not claimed yet, since the call was made.
-- KEYS state tools
-- ARGV index runner result channel_prefix message session_field session intent
-- -> 'ok' | 'done' | 'gone'
if redis.call('HGET', state, 'closed') ~= '' then return 'gone' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'done' end
local claim = redis.call('HGET', tools, index .. ':claim')
if claim and string.match(claim, '^(%S+)') ~= runner then return 'gone' end
redis.call('HSETNX', tools, index .. ':intent', intent)
redis.call('HSET', tools, index .. ':result', result)
if session_field ~= '' then redis.call('HSET', tools, session_field, session) end
if redis.call('PTTL', tools) == -1 then redis.call('PEXPIRE', tools, redis.call('PTTL', state)) end
redis.call('PUBLISH', channel_prefix .. redis.call('HGET', state, 'owner'), message)
return 'ok'
