-- Appends entries under a fencing token and publishes them. Everything or nothing: refused entries are never visible.
-- `usage`: what the owner has counted so far, for whoever ends the response without having counted; '' is nothing.
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
