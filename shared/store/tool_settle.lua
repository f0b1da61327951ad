-- Journals the worker's own verdict on a call that never answered, unless a result came first.
-- KEYS state tools    ARGV fencing_token call_index result    -> {'stands', result} | {'fenced'}
local state, tools = unpack(KEYS)
local token, index, result = ARGV[1], ARGV[2], ARGV[3]

local fields = redis.call('HMGET', state, 'attempt', 'closed')
if fields[1] ~= token or fields[2] ~= '' then return {'fenced'} end
redis.call('HSETNX', tools, index .. ':result', result)
return {'stands', redis.call('HGET', tools, index .. ':result')}
