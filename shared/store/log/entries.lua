-- What appending and closing have in common: checking who may write, and writing.

-- Returns nil if entry `first` may be written under this proof, or else the reply that says why not.
local function refuse_write(state, log, proof, first)
  local attempt, closed, owner = unpack(redis.call('HMGET', state, 'attempt', 'closed', 'owner'))
  if not attempt then return {'missing'} end
  if closed ~= '' then return {'closed'} end
  if attempt .. ' ' .. owner ~= proof then return {'fenced'} end
  local tail = redis.call('XLEN', log)
  if tail ~= first then return {'gap', tail, owner} end
end

-- Writes `count` entries (frame, tokens, token_record) that begin at ARGV[place]. Returns their frames, joined.
local function write_entries(log, first, place, count)
  local frames = {}
  for i = 0, count - 1 do
    local frame, tokens, token_record = ARGV[place + 3 * i], ARGV[place + 3 * i + 1], ARGV[place + 3 * i + 2]
    local id = string.format('%d-0', first + i + 1)
    if tokens == '' then
      redis.call('XADD', log, id, 'e', frame)
    elseif token_record == '' then
      redis.call('XADD', log, id, 'e', frame, 't', tokens)
    else
      redis.call('XADD', log, id, 'e', frame, 't', tokens, 'm', token_record)
    end
    frames[i + 1] = frame
  end
  return table.concat(frames)
end

