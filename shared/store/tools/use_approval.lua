-- Marks an approval as used by a response, unless another one has used it.
-- KEYS approval
-- ARGV response_id ttl_ms#
-- -> 'ok' | 'used'
if redis.call('SET', approval, response_id, 'NX', 'PX', ttl_ms) then return 'ok' end
return redis.call('GET', approval) == response_id and 'ok' or 'used'
