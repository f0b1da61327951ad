-- Takes the lease if it is free, or by force, and with it the next fencing token.
-- USES redis/clock owning/pulse
-- KEYS state log active pulse
-- ARGV member owner lease_ttl_ms# force known_format# is_at_it token_used#
-- A lease that lapsed was lost with its owner, which counts as a death; one that was released was not, nor one
-- that its owner takes again. While Redis was away no owner could renew: until it has been there for as long as
-- a lease lasts, one that lapsed is held.
-- `is_at_it`: the owner has the response in hand. If not, a lease in its name is one whose answer it never got:
-- it takes that again, so that no lost answer leaves a lease that nobody keeps.
-- `token_used`: one that the owner has had before; a failover may have taken it back. No owner gets one twice, for
-- what it sent with it then may still be under way.
-- `force`: 'no', 'any', or 'kept': then a response that is neither stored nor in the background is not there.
-- `known_format`: the newest that the owner can replay. `format_needed` is what the record was begun in, or what an
-- owner since has written: a record that needs a newer owner is left for one.
-- `born`: entry 0, for who takes the lease by force; the request, which may be long, is read apart.
-- `record_bytes`: how long the request is, for who has to find room for it.
-- -> {'acquired', fencing_token, next_sequence_number, deaths, format, usage, born, record_bytes}
--    | {'held'} | {'newer'} | {'closed'} | {'missing'}
local fields = redis.call('HMGET', state, 'closed', 'lease_until_ms', 'owner', 'format', 'format_needed', 'usage',
  'store', 'background')
if not fields[1] then
  redis.call('ZREM', active, member)
  return {'missing'}
end
if fields[1] ~= '' then
  redis.call('ZREM', active, member)
  return {'closed'}
end
if force == 'kept' and fields[7] ~= '1' and fields[8] ~= '1' then return {'missing'} end
local now = now_ms()
-- A time further off than any lease lasts was written by another clock, before a failover.
local lease_until = tonumber(fields[2])
local is_free = force ~= 'no' or fields[3] == owner and is_at_it == '0'
if not is_free and lease_until > now and lease_until <= now + 2 * lease_ttl_ms then return {'held'} end
if not is_free and lease_until > 0 and not is_steady(pulse, now, lease_ttl_ms) then return {'held'} end
local format = tonumber(fields[4] or 1)  -- records had no number at first
local needed = tonumber(fields[5] or format)
if force == 'no' and needed > known_format then return {'newer'} end
local token = math.max(tonumber(redis.call('HGET', state, 'attempt')), token_used) + 1
redis.call('HSET', state, 'attempt', token)
local has_lapsed = force == 'no' and lease_until > 0 and fields[3] ~= owner
local deaths = redis.call('HINCRBY', state, 'deaths', has_lapsed and 1 or 0)
redis.call('HSET', state, 'owner', owner, 'lease_until_ms', now + lease_ttl_ms,
  'format_needed', math.max(needed, known_format))
redis.call('ZADD', active, now + lease_ttl_ms, member)
local first = force ~= 'no' and redis.call('XRANGE', log, '1-0', '1-0')[1]
return {'acquired', token, redis.call('XLEN', log), deaths, format, fields[6] or '', first and first[2][2] or '',
  redis.call('HSTRLEN', state, 'request')}
