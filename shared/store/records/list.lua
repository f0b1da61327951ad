-- Reads a page of a tenant's stored responses from an index, and takes out of it those that have expired.
-- `after`: the id of the last one that was seen, '' to begin; one that has left this index meanwhile keeps its place,
-- and so does one of another cell, if its time is given as `after_ms`.
-- `wanted`: the status of an open response that is meant, '' for any: whether it waits is known from its log alone.
-- Looks at `scan_max` entries at most. If there are more, `resume` is the last one that it has seen.
-- USES records/listed
-- KEYS listed
-- ARGV state_pattern log_pattern tenant group member wanted after after_ms limit# scan_max# newest_first
-- -> {'unknown'} | {'ok', has_more, resume, created_ms, (id head status created_ms)…}
local FIRST_ENTRIES = 2  -- of the log of a response in the background; a worker appends the third

local name = index_of(listed, group, member)
local is_newest_first = newest_first == '1'

-- When a response was created; nil if it is in no index and its time was not given.
local function created_ms_of(id)
  local known = redis.call('ZSCORE', name, id) or redis.call('ZSCORE', index_of(listed, '', ''), id)
  return known or (after_ms ~= '' and after_ms) or nil
end

-- Whether an id comes after another one of the same millisecond: by bytes, as in Redis's own order. `>` compares as the
-- server's locale does.
local function comes_after(id, other)
  for place = 1, math.min(#id, #other) do
    local difference = string.byte(id, place) - string.byte(other, place)
    if difference ~= 0 then return difference > 0 end
  end
  return #id > #other
end

-- The place in this index of what comes after a response, whether it is in it or not.
local function place_after(id, created_ms)
  local rank = redis.call(is_newest_first and 'ZREVRANK' or 'ZRANK', name, id)
  if rank then return rank + 1 end
  local place = is_newest_first and redis.call('ZCOUNT', name, '(' .. created_ms, '+inf')
    or redis.call('ZCOUNT', name, '-inf', '(' .. created_ms)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', name, created_ms, created_ms)) do
    if comes_after(other, id) == is_newest_first then place = place + 1 end
  end
  return place
end

local function status_of(key, closed, background)
  if closed ~= '' then return closed end
  if background ~= '1' then return 'in_progress' end
  return redis.call('XLEN', string.format(log_pattern, key)) <= FIRST_ENTRIES and 'queued' or 'in_progress'
end

-- Whether a response does not belong to this index, because it is gone, or because a version that knows no index has
-- ended it.
local function is_misplaced(fields) return not fields[1] or (group == 'open' and fields[2] ~= '') end

local place, scanned, reply = 0, 0, {'ok', 0, after, ''}
if after ~= '' then
  local created_ms = created_ms_of(after)
  if not created_ms then return {'unknown'} end
  place, reply[4] = place_after(after, created_ms), created_ms
end
while scanned < scan_max do
  local count = limit + 1 - (#reply - 4) / 4
  local range = is_newest_first and 'ZREVRANGE' or 'ZRANGE'
  local found = redis.call(range, name, place, place + count - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local id = found[i]
    local key = tenant .. '/' .. id
    local fields = redis.call('HMGET', string.format(state_pattern, key), 'head', 'closed', 'background')
    scanned = scanned + 1
    if is_misplaced(fields) then
      redis.call('ZREM', name, id)
    else
      place = place + 1
      local status = status_of(key, fields[2], fields[3])
      if wanted == '' or wanted == status then
        if #reply == 4 + 4 * limit then
          reply[2] = 1
          return reply
        end
        for _, value in ipairs({id, fields[1], status, found[i + 1]}) do reply[#reply + 1] = value end
      end
      reply[3] = id
    end
  end
  if #found < 2 * count then return reply end
end
reply[2] = 1
return reply
