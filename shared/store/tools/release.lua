-- Gives a call back, for a runner that stops, and notifies the worker that waits for it. `begun`: '0' if the call was not
-- begun, so that any runner may make it. A claim until 0 was given back, one until -1 before the call began.
-- KEYS state tools
-- ARGV index runner begun channel_prefix message
-- -> 'ok' | 'gone'
local claim = redis.call('HGET', tools, index .. ':claim')
if not claim or string.match(claim, '^(%S+)') ~= runner then return 'gone' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'gone' end
redis.call('HSET', tools, index .. ':claim', runner .. (begun == '1' and ' 0' or ' -1'))
redis.call('PUBLISH', channel_prefix .. redis.call('HGET', state, 'owner'), message)
return 'ok'
