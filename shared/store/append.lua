-- Appends entries under a fencing token and publishes them; with a status, closes the log too.
-- Everything or nothing: refused entries are never visible.
-- KEYS state log secrets active tools
-- ARGV channel member fencing_token next_sequence_number closed retention_ms snapshot count frame tokens ...
-- -> {'ok', next} | {'fenced'} | {'closed'} | {'missing'} | {'gap', next}
local state, log, secrets, active, tools = unpack(KEYS)
local channel, member, token, first = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local closed, retention_ms, snapshot, count = ARGV[5], tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])

local fields = redis.call('HMGET', state, 'attempt', 'closed')
if not fields[1] then return {'missing'} end
if fields[2] ~= '' then return {'closed'} end
if fields[1] ~= token then return {'fenced'} end
local tail = redis.call('XLEN', log)
if tail ~= first then return {'gap', tail} end

local frames = {}
for i = 0, count - 1 do
  local frame, tokens = ARGV[9 + 2 * i], ARGV[10 + 2 * i]
  local id = string.format('%d-0', first + i + 1)
  if tokens == '' then
    redis.call('XADD', log, id, 'e', frame)
  else
    redis.call('XADD', log, id, 'e', frame, 't', tokens)
  end
  frames[i + 1] = frame
end
tail = first + count
if closed ~= '' then
  redis.call('HSET', state, 'closed', closed, 'snapshot', snapshot, 'lease_until_ms', 0)
  redis.call('PEXPIRE', state, retention_ms)
  redis.call('PEXPIRE', log, retention_ms)
  redis.call('PEXPIRE', tools, retention_ms)
  redis.call('DEL', secrets)
  redis.call('ZREM', active, member)
end
redis.call('PUBLISH', channel,
  string.format('%d %d %d\n', first, tail, closed ~= '' and 1 or 0) .. table.concat(frames))
return {'ok', tail}
