-- Keeps an MCP server's session for the next call of the response to the same server, in place of `expected` ('' for
-- none), unless another call has kept one meanwhile.
-- KEYS state tools
-- ARGV field expected session
-- -> {'kept'} | {'other', session} | {'gone'}
if redis.call('HGET', state, 'closed') ~= '' then return {'gone'} end
local current = redis.call('HGET', tools, field)
if current and current ~= expected and current ~= session then return {'other', current} end
redis.call('HSET', tools, field, session)
if redis.call('PTTL', tools) == -1 then redis.call('PEXPIRE', tools, redis.call('PTTL', state)) end
return {'kept'}
