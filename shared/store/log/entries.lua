-- What appending and closing have in common: checking who may write, and writing.

local call = redis.call  -- a local name is found faster, and this runs for every token

-- Returns nil if entry `first` may be written under this proof, or else the reply that says why not.
local function refuse_write(state, log, proof, first)
  local fields = call('HMGET', state, 'attempt', 'closed', 'owner')
  local attempt, closed, owner = fields[1], fields[2], fields[3]
  if not attempt then return {'missing'} end
  if closed ~= '' then return {'closed'} end
  if attempt .. ' ' .. owner ~= proof then return {'fenced'} end
  local tail = call('XLEN', log)
  if tail ~= first then return {'gap', tail, owner} end
end

-- Writes the entry (id, frame, tokens, token_record) at ARGV[at]. Returns its frame.
local function write_entry(log, at)
  local frame, tokens, token_record = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if tokens == '' and token_record == '' then
    call('XADD', log, ARGV[at], 'e', frame)
  elseif token_record == '' then
    call('XADD', log, ARGV[at], 'e', frame, 't', tokens)
  else
    call('XADD', log, ARGV[at], 'e', frame, 't', tokens, 'm', token_record)
  end
  return frame
end

-- Writes the entries in ARGV[at] to ARGV[last]. Returns their frames, joined.
local function write_entries(log, at, last)
  if last == at + 3 then return write_entry(log, at) end  -- most appends have one: no table is made for it
  local frames = {}
  for i = at, last, 4 do frames[#frames + 1] = write_entry(log, i) end
  return table.concat(frames)
end
