-- Accepts a response: record, the log's first entries, secrets, job and doorbell, or nothing at all.
-- One response at a time is open in a conversation. What locks it is that its holder is open, so that no way
-- of ending, or of getting lost, leaves a lock behind. `moved`: items joined it since its context was read.
-- KEYS state log secrets tools active queue doorbell job open idempotency parent_tools
--      held held_bytes conversation
-- ARGV member response_id job_id job ttl_ms queue_depth_max open_max ring_again_ms
--      request store background secrets body_digest idempotency_ttl_ms bytes bytes_max format place frame…
--      place: that of the conversation's last item when it was read; '': there is no conversation
-- -> {'ok', created_ms} | {'exists'} | {'full', depth} | {'busy', open} | {'heavy', bytes}
--    | {'known', response_id} | {'conflict'} | {'locked'} | {'moved'}
local state, log, secrets, tools, active, queue, doorbell, job_key, open, idempotency, parent_tools, held,
  held_bytes, conversation = unpack(KEYS)
local place, FIRST_FRAME = ARGV[18], 19
local member, response_id, job_id, job, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local body_digest = ARGV[13]

if redis.call('EXISTS', state) == 1 then return {'exists'} end
if body_digest ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local id, digest = string.match(known, '^(%S+) (%S+)$')
    if digest ~= body_digest then return {'conflict'} end
    -- One that was deleted or has expired cannot be given again: the call makes a new one.
    local known_state = string.gsub(state, response_id, id)
    if redis.call('EXISTS', known_state) == 1 then return {'known', id} end
  end
end
if place ~= '' then
  local fields = redis.call('HMGET', conversation, 'response', 'next')
  if fields[1] then
    local holder_state = string.gsub(state, response_id, fields[1])
    if redis.call('HGET', holder_state, 'closed') == '' then return {'locked'} end
  end
  if fields[2] ~= place then return {'moved'} end
end
local depth = redis.call('ZCARD', queue)
if depth >= tonumber(ARGV[6]) then return {'full', depth} end
local running = redis.call('SCARD', open)
if running >= tonumber(ARGV[7]) then return {'busy', running} end
local now = now_ms()
local kept_bytes = held_total(held, held_bytes, now)
if kept_bytes + tonumber(ARGV[15]) > tonumber(ARGV[16]) then return {'heavy', kept_bytes} end

redis.call('HSET', state, 'request', ARGV[9], 'store', ARGV[10], 'background', ARGV[11],
  'created_ms', now, 'attempt', 0, 'owner', '', 'lease_until_ms', 0, 'alone_since_ms', now,
  'rings', 0, 'job', job_id, 'closed', '', 'format', ARGV[17])
redis.call('PEXPIRE', state, ttl_ms)
for i = FIRST_FRAME, #ARGV do
  redis.call('XADD', log, string.format('%d-0', i - FIRST_FRAME + 1), 'e', ARGV[i])
end
redis.call('PEXPIRE', log, ttl_ms)
if ARGV[12] ~= '' then redis.call('SET', secrets, ARGV[12], 'PX', ttl_ms) end
if place ~= '' then redis.call('HSET', conversation, 'response', response_id) end
-- What a tool server wants to be given back goes on from the response that this one continues.
for _, field in ipairs(redis.call('HKEYS', parent_tools)) do
  if string.sub(field, 1, 8) == 'session:' then
    redis.call('HSET', tools, field, redis.call('HGET', parent_tools, field))
    redis.call('PEXPIRE', tools, ttl_ms)
  end
end
redis.call('SADD', open, response_id)
hold(held, held_bytes, response_id, ARGV[15], now, ttl_ms)
redis.call('PEXPIRE', open, ttl_ms)
if body_digest ~= '' then
  redis.call('SET', idempotency, response_id .. ' ' .. body_digest, 'PX', ARGV[14])
end
redis.call('ZADD', active, now + tonumber(ARGV[8]), member)
redis.call('PEXPIRE', active, ttl_ms)
enqueue(queue, doorbell, job_key, job_id, job, ttl_ms)
return {'ok', now}
