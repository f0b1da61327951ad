-- Stores what closes the log if somebody ends the response in its owner's place from now on, under a fencing token, and
-- only if the log has the answer's entries, which number `first`: a failover may have taken some back.
-- USES log/entries
-- KEYS state log
-- ARGV proof first# answered
-- -> next | {'fenced'} | {'closed'} | {'missing'} | {'gap', next, owner}
local next_number = redis.call('XLEN', log)
local refused = refuse_write(state, log, proof, math.max(first, next_number))  -- another owner has perhaps gone on
if refused then return refused end
redis.call('HSET', state, 'answered', answered)
return next_number
