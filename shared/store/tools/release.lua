-- A runner that stops gives a call back, and the worker that waits for it is told. `begun` is 0 if it has not
-- been made at all: then it can be made by anybody. A claim until 0 was given back, one until -1 before it began.
-- KEYS state tools
-- ARGV index runner begun channel_prefix message
-- -> 'ok' | 'gone'
local claim = redis.call('HGET', tools, index .. ':claim')
if not claim or string.match(claim, '^(%S+)') ~= runner then return 'gone' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'gone' end
redis.call('HSET', tools, index .. ':claim', runner .. (begun == '1' and ' 0' or ' -1'))
redis.call('PUBLISH', channel_prefix .. redis.call('HGET', state, 'owner'), message)
return 'ok'
