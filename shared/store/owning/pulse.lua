-- Returns the replication id that this server writes under, and the one that it continued when it became the primary.
local function histories()
  local about = redis.call('INFO', 'replication')
  return string.match(about, 'master_replid:(%x+)') or '', string.match(about, 'master_replid2:(%x+)')
end

-- Returns true if this server has been available, as the primary, for `ttl_ms` without a break, as far as sweepers can
-- tell (`lapsed.lua`). Only then does a lease or claim not renewed in that time count as lost. If nobody sweeps, it is
-- assumed.
local function is_steady(pulse, now, ttl_ms)
  local since, heard, history = unpack(redis.call('HMGET', pulse, 'since_ms', 'heard_ms', 'history'))
  if not since then return true end
  local silence_ms = now - tonumber(heard)
  if silence_ms < 0 or silence_ms > ttl_ms / 2 or now - tonumber(since) < ttl_ms then return false end
  return not history or history == histories()
end

