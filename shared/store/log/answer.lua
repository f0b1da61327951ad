-- Stores what closes the log if somebody ends the response in its owner's place from now on, under a fencing token.
-- USES log/entries
-- KEYS state log
-- ARGV proof answered
-- -> next | {'fenced'} | {'closed'} | {'missing'} | {'gap', next, owner}
local next_number = redis.call('XLEN', log)
local refused = refuse_write(state, log, proof, next_number)
if refused then return refused end
redis.call('HSET', state, 'answered', answered)
return next_number
