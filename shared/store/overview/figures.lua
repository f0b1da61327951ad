-- The cluster in a few numbers: what is open, the present processes of each role, and what waits, by queue and tier. Looked
-- at are the queues of at most `queues_max` names that are served or were lately, and of each at most `flows_max` flows, those
-- with the next turns; whatever else waits in a queue is its `rest`: further flows, what is before all turns, and what waits
-- for a taker with room for its bytes. Of what webhooks have to deliver, at most `webhooks_max` webhooks are looked at, those
-- with the earliest deliveries. Only reads; the cost depends on these three numbers alone.
-- `queue`: that of the default model, which is there whatever is served. `pinned`: JSON of [[name, queue], …], the names for
-- which responses wait whether they are served or not.
-- USES redis/clock webhooks/outbox
-- KEYS queue models active outboxes given_up
-- ARGV queues_max# flows_max# webhooks_max# state_pattern presence_pattern pinned role…
-- -> {open, {processes, …}, {{queue, rest, tier, jobs, oldest_ms, …}, …}, {deliveries, late_ms, given_up}}; oldest_ms: how
--     long ago the oldest of them was accepted; late_ms: for how long the first of the deliveries has been due
local now = now_ms()

local function age_of(job_id)
  local member = string.match(job_id or '', '^(.*):%d+$')
  local created = member and redis.call('HGET', string.format(state_pattern, member), 'created_ms')
  return created and math.max(0, now - tonumber(created)) or 0
end

local function look_at(waits)
  local rest, tiers, names = redis.call('ZCARD', waits), {}, {}
  for _, flow in ipairs(redis.call('ZRANGE', waits .. ':turns', 0, flows_max - 1)) do
    local waiting, name = waits .. ':waiting:' .. flow, string.match(flow, '([^/]*)$')
    local jobs = redis.call('LLEN', waiting)
    local tier = tiers[name]
    if not tier then
      tier = {0, 0}
      tiers[name], names[#names + 1] = tier, name
    end
    tier[1], tier[2] = tier[1] + jobs, math.max(tier[2], age_of(redis.call('LINDEX', waiting, 0)))
    rest = rest - jobs
  end
  local found = {waits, math.max(0, rest)}
  for _, name in ipairs(names) do
    for _, value in ipairs({name, tiers[name][1], tiers[name][2]}) do found[#found + 1] = value end
  end
  return found
end

local queues, is_seen, is_served = {look_at(queue)}, {[queue] = true}, {}
local function add(waits)
  if is_seen[waits] then return end
  queues[#queues + 1], is_seen[waits] = look_at(waits), true
end
for _, served in ipairs(redis.call('ZRANGE', models, 0, queues_max - 1, 'REV')) do
  local name, waits = unpack(cjson.decode(served))
  is_served[name] = true
  add(waits)
end
for _, each in ipairs(cjson.decode(pinned)) do
  local name, waits = unpack(each)
  if not is_served[name] and #queues < queues_max then add(waits) end
end
local deliveries, due_ms = 0, now
for _, webhook in ipairs(redis.call('ZRANGE', outboxes, 0, webhooks_max - 1)) do
  local outbox = outbox_of(outboxes, webhook)
  deliveries = deliveries + redis.call('ZCARD', outbox)
  local first = redis.call('ZRANGE', outbox, 0, 0, 'WITHSCORES')
  if first[2] then due_ms = math.min(due_ms, tonumber(first[2])) end
end
local present = {}
for i = REST, #ARGV do
  present[#present + 1] = redis.call('ZCOUNT', string.format(presence_pattern, ARGV[i]), now, '+inf')
end
return {redis.call('ZCARD', active), present, queues, {deliveries, now - due_ms, tonumber(redis.call('GET', given_up) or 0)}}
