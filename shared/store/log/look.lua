-- Finds the logs that are no longer open or have more entries than given. One with fewer lost its tail in a failover,
-- and is still waited for.
-- ARGV state_pattern log_pattern (name entries)…
-- -> their indexes, from 0
local found = {}
for place = REST, #ARGV, 2 do
  local name, entries = ARGV[place], tonumber(ARGV[place + 1])
  local is_open = redis.call('HGET', string.format(state_pattern, name), 'closed') == ''
  if not is_open or redis.call('XLEN', string.format(log_pattern, name)) > entries then
    found[#found + 1] = (place - REST) / 2
  end
end
return found
