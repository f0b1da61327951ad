-- Which history this server writes, and which one it went on from when it became the primary.
local function histories()
  local about = redis.call('INFO', 'replication')
  return string.match(about, 'master_replid:(%x+)') or '', string.match(about, 'master_replid2:(%x+)')
end

-- Whether this server has been there for `ttl_ms` without a break, and as the primary, as far as sweepers can tell
-- (`lapsed.lua`): only then has whoever did not renew something in that time lost it. Where nobody sweeps, nothing
-- speaks against it.
local function is_steady(pulse, now, ttl_ms)
  local since, heard, history = unpack(redis.call('HMGET', pulse, 'since_ms', 'heard_ms', 'history'))
  if not since then return true end
  local silence_ms = now - tonumber(heard)
  if silence_ms < 0 or silence_ms > ttl_ms / 2 or now - tonumber(since) < ttl_ms then return false end
  return not history or history == histories()
end

