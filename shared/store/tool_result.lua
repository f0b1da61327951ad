-- Journals a result, once, and tells the worker that waits for it.
-- KEYS state tools    ARGV call_index runner result channel_prefix message session_field session
-- -> 'ok' | 'done' | 'gone'
local state, tools = unpack(KEYS)
local index, runner = ARGV[1], ARGV[2]

if redis.call('HGET', state, 'closed') ~= '' then return 'gone' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'done' end
local claim = redis.call('HGET', tools, index .. ':claim')
if not claim or string.match(claim, '^(%S+)') ~= runner then return 'gone' end
redis.call('HSET', tools, index .. ':result', ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', tools, ARGV[6], ARGV[7]) end
redis.call('PUBLISH', ARGV[4] .. redis.call('HGET', state, 'owner'), ARGV[5])
return 'ok'
