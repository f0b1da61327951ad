-- Journals a result, once, and tells the worker that waits for it. It counts also when a failover has lost the
-- claim, or when the call was queued again and nobody has taken it: it was made, and this came of it.
-- KEYS state tools    ARGV call_index runner result channel_prefix message session_field session intent
-- -> 'ok' | 'done' | 'gone'
local state, tools = unpack(KEYS)
local index, runner = ARGV[1], ARGV[2]

if redis.call('HGET', state, 'closed') ~= '' then return 'gone' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'done' end
local claim = redis.call('HGET', tools, index .. ':claim')
if claim and string.match(claim, '^(%S+)') ~= runner then return 'gone' end
redis.call('HSETNX', tools, index .. ':intent', ARGV[8])
redis.call('HSET', tools, index .. ':result', ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', tools, ARGV[6], ARGV[7]) end
if redis.call('PTTL', tools) == -1 then redis.call('PEXPIRE', tools, redis.call('PTTL', state)) end
redis.call('PUBLISH', ARGV[4] .. redis.call('HGET', state, 'owner'), ARGV[5])
return 'ok'
