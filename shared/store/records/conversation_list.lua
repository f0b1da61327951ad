-- Reads one page of a conversation's items, after an item or, if `after` is '', from the beginning of the order.
-- KEYS conversation items order
-- ARGV ttl_ms after limit# newest_first
-- -> {'ok', has_more, item…} | {'missing'} | {'unknown'}
local is_newest_first = newest_first == '1'
if redis.call('EXISTS', conversation) == 0 then return {'missing'} end
local start = 0
if after ~= '' then
  local rank = redis.call(is_newest_first and 'ZREVRANK' or 'ZRANK', order, after)
  if not rank then return {'unknown'} end
  start = rank + 1
end
-- One more than the page holds, to know whether more follow.
local ids = redis.call(is_newest_first and 'ZREVRANGE' or 'ZRANGE', order, start, start + limit)
local page = {'ok', #ids > limit and 1 or 0}
for i = 1, math.min(#ids, limit) do page[i + 2] = redis.call('HGET', items, ids[i]) end
for _, key in ipairs({conversation, items, order}) do redis.call('PEXPIRE', key, ttl_ms) end
return page
