-- Hands a call that its runner has not begun over to another one, and tells that one. If nobody listens there, nothing
-- is changed. A claim until -1 means that the call has not begun, so that the worker has it made if the other one does not.
-- KEYS tools
-- ARGV index runner to channel message
-- -> 'ok' | 'absent' | 'gone'
local claim = redis.call('HGET', tools, index .. ':claim')
if not claim or string.match(claim, '^(%S+)') ~= runner then return 'gone' end
if redis.call('HEXISTS', tools, index .. ':result') == 1 then return 'gone' end
redis.call('HSET', tools, index .. ':claim', to .. ' -1')
if redis.call('PUBLISH', channel, message) > 0 then return 'ok' end
redis.call('HSET', tools, index .. ':claim', claim)
return 'absent'
