-- Reads a log from an entry on, within bounds: part of its stream, or one chunk of its archive.
-- A page has at least one entry, however large, if there is one.
-- KEYS state log archive
-- ARGV first# count_max# bytes_max# with_token_records
-- -> {'missing'} | {'beyond', entries} | {'log', is_closed, has_more, (frame, tokens[, token_record])…}
--    | {'archive', has_more, chunk_first, chunk}

-- Reads the chunk that contains `first`. The index is each chunk's first sequence number, then the number of entries.
local function read_archive()
  local index = redis.call('HGET', archive, 'index')
  if not index then return {'missing'} end
  local function first_of(chunk) return (struct.unpack('<I4', index, 4 * chunk + 1)) end
  local low, high = 0, #index / 4 - 1
  if first > first_of(high) then return {'beyond', first_of(high)} end
  if first == first_of(high) then return {'archive', 0, first, ''} end
  local last = high - 1
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if first_of(middle) <= first then low = middle else high = middle end
  end
  return {'archive', low < last and 1 or 0, first_of(low), redis.call('HGET', archive, tostring(low))}
end

local fields = redis.call('HMGET', state, 'closed', 'compacted')
if not fields[1] then return {'missing'} end
if fields[2] then return read_archive() end

local tail = redis.call('XLEN', log)
if first > tail and fields[1] ~= '' then return {'beyond', tail} end
local at, bytes, is_full = first, 0, false
local reply = {'log', 0, 0}
local step = 32  -- the number of entries fetched first; later, as many as are likely to fit
while at < tail and not is_full do
  local count = math.min(step, first + count_max - at)
  local entries = redis.call('XRANGE', log, string.format('%d-0', at + 1), '+', 'COUNT', count)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local frame, tokens = entry[2][2], entry[2][4] or ''
    local token_record = with_token_records == '1' and entry[2][6] or ''
    local size = #frame + #token_record
    if at > first and bytes + size > bytes_max then
      is_full = true
      break
    end
    reply[#reply + 1] = frame
    reply[#reply + 1] = tokens
    if with_token_records == '1' then reply[#reply + 1] = token_record end
    at, bytes = at + 1, bytes + size
  end
  is_full = is_full or at - first >= count_max
  step = math.max(1, math.min(4 * step, math.ceil((bytes_max - bytes) * (at - first) / bytes)))
end
if at < tail then reply[3] = 1 elseif fields[1] ~= '' then reply[2] = 1 end
return reply
