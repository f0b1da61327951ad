-- Reads a page of a tenant's stored responses from an index, and takes out of it those that have expired.
-- `after`: the id of the last one that was seen, '' to begin; one that has left this index meanwhile keeps its place.
-- `wanted`: the status of an open response that is meant, '' for any: whether it waits is known from its log alone.
-- Looks at `scan_max` entries at most. If there are more, `resume` is the last one that it has seen.
-- USES records/listed
-- KEYS listed
-- ARGV state_pattern log_pattern tenant group member wanted after limit# scan_max# newest_first
-- -> {'unknown'} | {'ok', has_more, resume, (id head is_waiting)…}
local FIRST_ENTRIES = 2  -- of the log of a response in the background; a worker appends the third

local name = index_of(listed, group, member)
local is_newest_first = newest_first == '1'

-- The place in this index of what comes after a response, whether it is still in it or not. nil if it is in none.
local function place_after(id)
  local rank = redis.call(is_newest_first and 'ZREVRANK' or 'ZRANK', name, id)
  if rank then return rank + 1 end
  local created_ms = redis.call('ZSCORE', index_of(listed, '', ''), id)
  if not created_ms then return nil end
  local place = is_newest_first and redis.call('ZCOUNT', name, '(' .. created_ms, '+inf')
    or redis.call('ZCOUNT', name, '-inf', '(' .. created_ms)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', name, created_ms, created_ms)) do
    if (other > id) == is_newest_first then place = place + 1 end
  end
  return place
end

local function is_waiting(key, fields)
  if fields[2] ~= '' or fields[3] ~= '1' then return false end
  return redis.call('XLEN', string.format(log_pattern, key)) <= FIRST_ENTRIES
end

local place, scanned, reply = 0, 0, {'ok', 0, after}
if after ~= '' then place = place_after(after) end
if not place then return {'unknown'} end
while scanned < scan_max do
  local count = limit + 1 - (#reply - 3) / 3
  local ids = redis.call(is_newest_first and 'ZREVRANGE' or 'ZRANGE', name, place, place + count - 1)
  for _, id in ipairs(ids) do
    local key = tenant .. '/' .. id
    local fields = redis.call('HMGET', string.format(state_pattern, key), 'head', 'closed', 'background')
    scanned = scanned + 1
    if not fields[1] then
      redis.call('ZREM', name, id)
    else
      place = place + 1
      local waits = is_waiting(key, fields)
      if wanted == '' or waits == (wanted == 'queued') then
        if #reply == 3 + 3 * limit then
          reply[2] = 1
          return reply
        end
        reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, fields[1], waits and 1 or 0
      end
      reply[3] = id
    end
  end
  if #ids < count then return reply end
end
reply[2] = 1
return reply
