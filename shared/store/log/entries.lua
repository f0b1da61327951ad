-- What appending and closing have in common: checking who may write, and writing.

local call = redis.call  -- a local name is found faster, and this runs for every token

-- Returns nil if entry `first` may be written under this proof, or else the reply that says why not.
local function refuse_write(state, log, proof, first)
  local attempt, closed, owner = unpack(call('HMGET', state, 'attempt', 'closed', 'owner'))
  if not attempt then return {'missing'} end
  if closed ~= '' then return {'closed'} end
  if attempt .. ' ' .. owner ~= proof then return {'fenced'} end
  local tail = call('XLEN', log)
  if tail ~= first then return {'gap', tail, owner} end
end

-- Writes the entries (id, frame, tokens, token_record) in ARGV[at] to ARGV[last]. Returns their frames, joined.
local function write_entries(log, at, last)
  local frames = {}
  for i = at, last, 4 do
    local id, frame, tokens, token_record = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    if tokens == '' then
      call('XADD', log, id, 'e', frame)
    elseif token_record == '' then
      call('XADD', log, id, 'e', frame, 't', tokens)
    else
      call('XADD', log, id, 'e', frame, 't', tokens, 'm', token_record)
    end
    frames[#frames + 1] = frame
  end
  return table.concat(frames)
end
