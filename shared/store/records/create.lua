-- Accepts a response: writes record, first log entries, secrets, job and doorbell token, or nothing at all.
-- One response at a time may be open in a conversation. The lock is the state of the last response created in it, so
-- that no way of ending, or of getting lost, leaves a lock behind.
-- `place`: the place of the conversation's last item when its context was read; '' if there is no conversation. Answers
-- `moved` if items have joined it since.
-- `reader`: the name of the client's reader, who is announced with the response (as `announce.lua` does); '' for none.
-- `job`: '' if no worker is to have the response, because its creator ends it at once.
-- `channel`: where the first entries are published, if somebody is to follow them; '' if nobody is. `listeners` are those
-- who were subscribed by then, and so miss nothing.
-- `tokens`: what is counted against the limit a minute until the response has ended, at most all of it: how much of that will
-- be used, nobody knows. The limits are 0 if there are none.
-- `webhooks`: the names of those that deliver the end of the response; '' if none does. `trace`: the one that they continue;
-- '' if there is none.
-- `head`: what a list shows of it; '' if it is not stored. `members`: of its metadata, as `listed.lua` has them.
-- `affinity_ms`: how long it may be kept for the worker that has its prefix in cache; 0: not at all.
-- `prefix`: the key that names the worker that has begun the last response with its `prompt_cache_key`; '' if it has none.
-- USES redis/clock queue homes records/held records/rate records/listed
-- KEYS state log secrets tools active queue doorbell job_key open idempotency parent_tools parent_state takers
--      held held_bytes conversation readers rate listed
-- ARGV member response_id job_id job ttl_ms# queue_depth_max# open_max# ring_again_ms#
--      request store background sealed_secrets body_digest renews idempotency_ttl_ms# bytes# bytes_max# format place
--      reader reader_ttl_ms# tokens# requests_per_minute# tokens_per_minute# webhooks trace channel
--      head members listed_ttl_ms# listed_max# flow turn_cost#
--      affinity_ms# affinity_margin# bell_pattern prefix frame…
-- -> {'ok', listeners, requests_left, requests_whole_in_ms, tokens_left, tokens_whole_in_ms} | {'exists'} | {'full', depth} | {'busy', open} | {'heavy', bytes}
--    | {'known', response_id} | {'conflict'} | {'locked'} | {'moved'}
--    | {'limited', wait_ms, requests_left, requests_whole_in_ms, tokens_left, tokens_whole_in_ms}
if redis.call('EXISTS', state) == 1 then return {'exists'} end
if body_digest ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local id, digest = string.match(known, '^(%S+) (%S+)$')
    if digest ~= body_digest then return {'conflict'} end
    -- If that response was deleted or has expired, the call creates a new one; with `renews`, also if it was cancelled.
    local known_state = string.gsub(state, response_id, id)
    local closed = redis.call('HGET', known_state, 'closed')
    if closed and not (renews == '1' and closed == 'cancelled') then return {'known', id} end
  end
end
if place ~= '' then
  local fields = redis.call('HMGET', conversation, 'response', 'next', 'stored')
  if fields[1] then
    local holder_state = string.gsub(state, response_id, fields[1])
    if redis.call('HGET', holder_state, 'closed') == '' then return {'locked'} end
  end
  if fields[2] ~= place then return {'moved'} end
  if fields[1] then parent_state = string.gsub(state, response_id, fields[1]) end
  if fields[3] then parent_tools = string.gsub(tools, response_id, fields[3]) end
end
local depth = redis.call('ZCARD', queue)
if depth >= queue_depth_max then return {'full', depth} end
local running = redis.call('SCARD', open)
if running >= open_max then return {'busy', running} end
local now = now_ms()
local kept_bytes = held_total(held, held_bytes, now)
if kept_bytes + bytes > bytes_max then return {'heavy', kept_bytes} end
local wait_ms = math.max(
  wait_for(rate, 'requests', 1, requests_per_minute, now), wait_for(rate, 'tokens', tokens, tokens_per_minute, now))
if wait_ms > 0 then return {'limited', wait_ms, left_of(rate, requests_per_minute, tokens_per_minute, now)} end

local fields = {'request', request, 'store', store, 'background', background,
  'created_ms', now, 'attempt', 0, 'owner', '', 'lease_until_ms', 0, 'alone_since_ms', reader == '' and now or '',
  'rings', 0, 'job', job_id, 'queue', queue, 'closed', '', 'format', format}
local function note(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end

if tokens_per_minute > 0 then
  tokens = math.min(tokens, tokens_per_minute)
  note('tokens', tokens)
  note('tokens_per_minute', tokens_per_minute)
end
if webhooks ~= '' then note('webhooks', webhooks) end
if webhooks ~= '' and trace ~= '' then note('trace', trace) end
if string.sub(flow, -5) == '/flex' then note('turn_cost', turn_cost) end  -- for when it gives way
if prefix ~= '' then note('prefix', prefix) end
if head ~= '' then
  note('head', head)
  note('members', members)
end
redis.call('HSET', state, unpack(fields))
if head ~= '' then
  for _, group in ipairs({'', 'open'}) do
    enlist(listed, group, members, response_id, now, now, listed_ttl_ms, listed_max)
  end
end
redis.call('PEXPIRE', state, ttl_ms)
use(rate, 'requests', 1, requests_per_minute, now)
use(rate, 'tokens', tokens, tokens_per_minute, now)
for i = REST, #ARGV do
  redis.call('XADD', log, string.format('%d-0', i - REST + 1), 'e', ARGV[i])
end
redis.call('PEXPIRE', log, ttl_ms)
if reader ~= '' then
  redis.call('ZADD', readers, now + reader_ttl_ms, reader)
  redis.call('PEXPIRE', readers, 30 * reader_ttl_ms)
end
if sealed_secrets ~= '' then redis.call('SET', secrets, sealed_secrets, 'PX', ttl_ms) end
if place ~= '' then
  redis.call('HSET', conversation, 'response', response_id)
  if store == '1' then redis.call('HSET', conversation, 'stored', response_id) end
end
-- The state of tool sessions is copied from the response that this one continues: its parent, or the last response that
-- was stored in its conversation.
for _, field in ipairs(redis.call('HKEYS', parent_tools)) do
  if string.sub(field, 1, 8) == 'session:' then
    redis.call('HSET', tools, field, redis.call('HGET', parent_tools, field))
    redis.call('PEXPIRE', tools, ttl_ms)
  end
end
redis.call('SADD', open, response_id)
hold(held, held_bytes, response_id, bytes, now, ttl_ms)
redis.call('PEXPIRE', open, ttl_ms)
if body_digest ~= '' then
  redis.call('SET', idempotency, response_id .. ' ' .. body_digest, 'PX', idempotency_ttl_ms)
end
redis.call('ZADD', active, now + ring_again_ms, member)
redis.call('PEXPIRE', active, ttl_ms)
if job ~= '' then
  local function home_of(worker)
    return find_home(queue, takers, worker, bell_pattern, now, affinity_ms, affinity_margin)
  end
  local home = affinity_ms > 0 and parent_state ~= state and home_of(redis.call('HGET', parent_state, 'owner'))
    or prefix ~= '' and home_of(redis.call('GET', prefix))
  enqueue(queue, doorbell, job_key, job_id, job, ttl_ms, flow, turn_cost, home)
end
local listeners = 0
if channel ~= '' then
  local header = string.format('0 %d 0\n', #ARGV - REST + 1)
  listeners = redis.call('PUBLISH', channel, header .. table.concat(ARGV, '', REST))
end
return {'ok', listeners, left_of(rate, requests_per_minute, tokens_per_minute, now)}
