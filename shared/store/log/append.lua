-- Appends entries under a fencing token and publishes them, all or none: refused entries are never visible. One run
-- serves the appends of many responses.
-- `usage`: JSON of the usage up to some entry (`shared/usage.py`); '' to keep what is stored.
-- `header`: the first line of the published message.
-- USES log/entries
-- EACH KEYS state log
-- EACH ARGV channel proof usage first# header (id frame tokens token_record)…
-- -> next | {'fenced'} | {'closed'} | {'missing'} | {'gap', next, owner}
local refused = refuse_write(state, log, proof, first)
if refused then return refused end

local frames = write_entries(log, REST, LAST)
if usage ~= '' then call('HSET', state, 'usage', usage) end
call('PUBLISH', channel, header .. frames)
return first + (LAST - REST + 1) / 4
