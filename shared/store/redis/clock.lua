-- Returns the time of Redis's clock, in milliseconds: the only clock that leases and claims use.
-- It stands still during a script, so it is read once.
local read_ms
local function now_ms()
  if not read_ms then
    local t = redis.call('TIME')
    read_ms = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return read_ms
end

