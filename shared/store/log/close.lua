-- Appends the last entries under a fencing token, closes the log with a status, and publishes both.
-- All or nothing, like `append.lua`.
-- `tokens`: what the response has used. Its tenant's limit a minute has counted another number since the response began.
-- `cancelled_channel`: where workers hear that the owner is to stop; '' if the owner closes it.
-- `head`: what a list shows of the response from now on.
-- USES redis/clock log/entries records/rate webhooks/outbox records/listed
-- KEYS state log secrets active tools open closed_logs conversation items order queue held rate
--      outboxes dead_letters listed
-- ARGV proof channel member response_id archive_after_ms# conversation_ttl_ms# cancelled_channel
--      outbox_ttl_ms# outbox_max# dead_letters_max# dead_letter_ttl_ms#
--      first# tokens# status retention_ms# snapshot unshown header entry_count# asked_count# asked_ttl_ms#
--      head listed_ttl_ms# listed_max#
--      (id frame tokens token_record)… (asked_key fingerprint)… (item_id item)…
-- -> next | {'fenced'} | {'closed'} | {'missing'} | {'gap', next, owner}
local refused = refuse_write(state, log, proof, first)
if refused then return refused end

-- Adds the response's input and output to its conversation, if that still exists.
local function join_conversation(place)
  if place > #ARGV or redis.call('EXISTS', conversation) == 0 then return end
  for i = place, #ARGV, 2 do
    local item_id, item = ARGV[i], ARGV[i + 1]
    if redis.call('HSETNX', items, item_id, item) == 1 then
      redis.call('ZADD', order, redis.call('HINCRBY', conversation, 'next', 1), item_id)
      redis.call('HINCRBY', conversation, 'bytes', #item)
    end
  end
  for _, key in ipairs({conversation, items, order}) do redis.call('PEXPIRE', key, conversation_ttl_ms) end
end

local asked_at = REST + 4 * entry_count
local items_at = asked_at + 2 * asked_count
local frames = write_entries(log, REST, asked_at - 1)
local fields = redis.call(
  'HMGET', state, 'store', 'job', 'tokens', 'tokens_per_minute', 'webhooks', 'members', 'created_ms', 'queue')
local store, job, counted, tokens_per_minute, webhooks, members, created_ms, own_queue = unpack(fields)
redis.call('HSET', state, 'closed', status, 'snapshot', snapshot, 'lease_until_ms', 0,
  'left_ms', now_ms())
if unshown ~= '' then redis.call('HSET', state, 'unshown', unshown) end
redis.call('HDEL', state, 'usage', 'answered')
if members and head ~= '' then
  redis.call('HSET', state, 'head', head)
  delist(listed, 'open', members, response_id)
  for _, group in ipairs({'', status}) do
    enlist(listed, group, members, response_id, created_ms, now_ms(), listed_ttl_ms, listed_max)
  end
end
for _, key in ipairs({state, log, tools}) do redis.call('PEXPIRE', key, retention_ms) end
redis.call('DEL', secrets, 'arq:job:' .. job, 'arq:retry:' .. job)
redis.call('ZREM', own_queue or queue, job)  -- in case it is closed before a worker took it
redis.call('ZREM', active, member)
redis.call('SREM', open, response_id)
if counted then use(rate, 'tokens', tokens - tonumber(counted), tonumber(tokens_per_minute), now_ms()) end
if store == '1' then
  -- A failed response is archived at once: clients repeat failed requests, and rarely read them.
  redis.call('ZADD', closed_logs, now_ms() + (status == 'failed' and 0 or archive_after_ms), member)
  if redis.call('PTTL', closed_logs) < retention_ms then
    redis.call('PEXPIRE', closed_logs, retention_ms)
  end
else
  redis.call('ZADD', held, 'XX', now_ms() + retention_ms, response_id)  -- it is never archived
end
for i = asked_at, items_at - 1, 2 do redis.call('SET', ARGV[i], ARGV[i + 1], 'PX', asked_ttl_ms) end
join_conversation(items_at)
if webhooks then
  local now = now_ms()
  local tenant, entry = string.match(member, '^(.*)/'), table.concat({response_id, status, now, 0}, ' ')
  announce_end(outboxes, dead_letters, tenant, webhooks, entry, now, {
    ttl_ms = outbox_ttl_ms, waiting_max = outbox_max, dead_max = dead_letters_max, dead_ttl_ms = dead_letter_ttl_ms,
  })
end
if cancelled_channel ~= '' then redis.call('PUBLISH', cancelled_channel, member) end
redis.call('PUBLISH', channel, header .. frames)
return first + entry_count
