-- The index of a tenant's stored responses: sorted sets of their ids by when they were created (Redis, ms). There is one
-- of all, one of the open ones and one of each status of those that have ended; and the same for each member of metadata.
-- Only the scripts that create, close and delete responses write them, each with the record itself, and the one that
-- reads them takes out what has expired.
-- `listed`: what the sets' names begin with; `group`: '' for all, 'open', or a status; `members`: digests, with blanks
-- between them.

local function index_of(listed, group, member) return listed .. '/' .. group .. '/' .. member end

local function indexes_of(listed, group, members)
  local names = {index_of(listed, group, '')}
  for member in string.gmatch(members, '%S+') do names[#names + 1] = index_of(listed, group, member) end
  return names
end

-- Puts a response into the sets of a group, and drops what is too old to be kept, and the oldest of too many.
local function enlist(listed, group, members, id, created_ms, now, ttl_ms, length_max)
  for _, name in ipairs(indexes_of(listed, group, members)) do
    redis.call('ZADD', name, created_ms, id)
    redis.call('PEXPIRE', name, ttl_ms)
    redis.call('ZREMRANGEBYSCORE', name, '-inf', now - ttl_ms)
    local over = redis.call('ZCARD', name) - length_max
    if over > 0 then redis.call('ZREMRANGEBYRANK', name, 0, over - 1) end
  end
end

local function delist(listed, group, members, id)
  for _, name in ipairs(indexes_of(listed, group, members)) do redis.call('ZREM', name, id) end
end
