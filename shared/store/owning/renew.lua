-- Renews a lease and the TTLs of its response's keys. A ttl of 0 releases the lease. One run serves all leases of a
-- worker.
-- A foreground response without a reader for the grace period is abandoned, unless its client could not read because no
-- API node was present or Redis was unavailable. The grace period then starts once readers have had time to return.
-- Readers that lapsed and never left were lost with their node. It ends `reader_return_ms` later for them: they come back
-- all at once, and the nodes that are left take them one after the other.
-- USES redis/clock owning/pulse
-- KEYS active api_nodes pulse
-- ARGV lease_ttl_ms# live_ttl_ms# disconnect_grace_ms# reader_return_ms# presence_ttl_ms#
-- EACH KEYS state log tools secrets open readers
-- EACH ARGV member proof
-- -> 'ok' | 'lost' | 'abandoned'
local fields = redis.call('HMGET', state, 'attempt', 'closed', 'background', 'alone_since_ms', 'lease_until_ms', 'owner')
if not fields[1] or fields[1] .. ' ' .. fields[6] ~= proof or fields[2] ~= '' then return 'lost' end
if fields[5] == '0' then return 'lost' end  -- released: a renewal still in flight does not undo that
local now = now_ms()
redis.call('HSET', state, 'lease_until_ms', lease_ttl_ms > 0 and now + lease_ttl_ms or 0)
if lease_ttl_ms == 0 then redis.call('HSET', state, 'left_ms', now) end
-- A beat comes twice a second; that the keys live a hundredth less long does no harm.
if redis.call('PTTL', state) < 0.99 * live_ttl_ms then
  for _, key in ipairs({state, log, tools, secrets, active, open}) do redis.call('PEXPIRE', key, live_ttl_ms) end
end
redis.call('ZADD', active, now + lease_ttl_ms, member)
if fields[3] == '1' or lease_ttl_ms == 0 then return 'ok' end

local announced_until = tonumber(redis.call('ZREVRANGE', readers, 0, 0, 'WITHSCORES')[2] or 0)
if announced_until >= now then
  if fields[4] ~= '' then redis.call('HSET', state, 'alone_since_ms', '') end
  return 'ok'
end
local present_until = tonumber(redis.call('ZREVRANGE', api_nodes, 0, 0, 'WITHSCORES')[2] or 0)
local alone_since = tonumber(fields[4])
if present_until < now or not is_steady(pulse, now, lease_ttl_ms) then
  redis.call('HSET', state, 'alone_since_ms', now + presence_ttl_ms)
elseif not alone_since then
  redis.call('HSET', state, 'alone_since_ms', math.max(now, announced_until + reader_return_ms - disconnect_grace_ms))
-- An API node has been present since, and no reader came.
elseif now - alone_since >= disconnect_grace_ms and present_until - presence_ttl_ms >= alone_since then
  return 'abandoned'
end
return 'ok'
