-- Takes the lease if it is free, or by force, together with the next fencing token.
-- USES redis/clock owning/pulse owning/granting
-- KEYS state log active pulse
-- ARGV member owner lease_ttl_ms# force known_format# has_response token_used#
-- A lapsed lease counts as a lost owner (`deaths`); a released one does not, nor one that its owner takes again.
-- During an outage of Redis no owner can renew, so until Redis has been available for as long as a lease lasts, a
-- lapsed lease counts as held.
-- `has_response`: '0' if the owner is not running the response. A lease in its name is then one whose grant it never
-- received: it takes that again, so that no lost reply leaves a lease that nobody renews.
-- `token_used`: the owner's last token for this response, which a failover may have taken back. No owner gets a token
-- twice, because what it sent with it may still be in flight.
-- `force`: 'no', 'any', or 'kept': then a response that is neither stored nor in the background is missing, and
-- nothing is written unless the lease is taken, so that the reply comes even while Redis refuses writes.
-- `known_format`: the newest format that the owner can replay. `format_needed` is the format that the record began with,
-- or that a later owner has written: a record that needs a newer owner is left to one.
-- `first_frame`: entry 0, if the lease is taken by force; the request, which may be long, is read separately.
-- `usage`: as it was stored last (`shared/usage.py`); `uncounted_tokens`: those in the entries that it does not cover, if
-- the lease is taken by force. There are few such entries: the log writer sees to that.
-- `answered`: what the owner has stored for whoever ends the response now (`log/answer.lua`), if the lease is taken by
-- force; '' for nothing.
-- `record_bytes`: the size of the request, for an owner that must find room for it.
-- -> {'acquired', fencing_token, next_sequence_number, deaths, format, usage, first_frame, record_bytes,
--    uncounted_tokens, age_ms, has_lapsed, answered} | {'held'} | {'newer'} | {'closed'} | {'missing'}

local function count_tokens_after(usage)
  local entries = string.match(usage, '"entries":(%d+)')
  local tokens = 0
  for _, entry in ipairs(entries and redis.call('XRANGE', log, string.format('%d-0', entries + 1), '+') or {}) do
    tokens = tokens + #(entry[2][4] or '') / 4
  end
  return tokens
end

local fields = redis.call('HMGET', state, 'closed', 'lease_until_ms', 'owner', 'format', 'format_needed', 'usage',
  'store', 'background', 'created_ms', 'prefix')
if not fields[1] or fields[1] ~= '' then
  if force ~= 'kept' then redis.call('ZREM', active, member) end
  return {fields[1] and 'closed' or 'missing'}
end
if force == 'kept' and fields[7] ~= '1' and fields[8] ~= '1' then return {'missing'} end
local now = now_ms()
-- A time further ahead than any lease lasts was written by another server's clock, before a failover.
local lease_until = tonumber(fields[2])
local is_free = force ~= 'no' or fields[3] == owner and has_response == '0'
if not is_free and lease_until > now and lease_until <= now + 2 * lease_ttl_ms then return {'held'} end
if not is_free and lease_until > 0 and not is_steady(pulse, now, lease_ttl_ms) then return {'held'} end
local format = tonumber(fields[4] or 1)  -- the first records had no number
local needed = tonumber(fields[5] or format)
if force == 'no' and needed > known_format then return {'newer'} end
local token = math.max(tonumber(redis.call('HGET', state, 'attempt')), token_used) + 1
local has_lapsed = force == 'no' and lease_until > 0 and fields[3] ~= owner
local deaths = grant(state, active, member, owner, token, now + lease_ttl_ms, math.max(needed, known_format),
  has_lapsed and 1 or 0)
if force == 'no' then name_home(fields[10], owner) end
local usage, first, uncounted_tokens, answered = fields[6] or '', nil, 0, false
if force ~= 'no' then
  first, uncounted_tokens = redis.call('XRANGE', log, '1-0', '1-0')[1], count_tokens_after(usage)
  answered = redis.call('HGET', state, 'answered')
end
return {'acquired', token, redis.call('XLEN', log), deaths, format, usage, first and first[2][2] or '',
  redis.call('HSTRLEN', state, 'request'), uncounted_tokens, now - tonumber(fields[9] or now), has_lapsed and 1 or 0,
  answered or ''}
