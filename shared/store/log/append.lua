-- Appends entries under a fencing token and publishes them, all or none: refused entries are never visible.
-- `usage`: JSON of the usage so far, for a process that closes the response without having counted; '' if nothing.
-- USES log/entries
-- KEYS state log
-- ARGV channel proof first# usage (frame tokens token_record)…
-- -> {'ok', next} | {'fenced'} | {'closed'} | {'missing'} | {'gap', next, owner}
local refused = refuse_write(state, log, proof, first)
if refused then return refused end

local count = (#ARGV - REST + 1) / 3
local frames = write_entries(log, first, REST, count)
if usage ~= '' then redis.call('HSET', state, 'usage', usage) end
redis.call('PUBLISH', channel, string.format('%d %d 0\n', first, first + count) .. frames)
return {'ok', first + count}
