-- The cluster in a few numbers: what is open, the present processes of each role, and what waits, by tier. At most
-- `flows_max` flows are looked at, those with the next turns; whatever else waits is `rest`: further flows, what is before
-- all turns, and what waits for a taker with room for its bytes. Only reads; the cost depends on `flows_max` alone.
-- USES redis/clock
-- KEYS queue turns active
-- ARGV flows_max# state_pattern presence_pattern role…
-- -> {open, {processes, …}, rest, {tier, jobs, oldest_ms, …}}; oldest_ms: how long ago the oldest of them was accepted
local now, rest = now_ms(), redis.call('ZCARD', queue)
local tiers, names = {}, {}

local function age_of(job_id)
  local member = string.match(job_id or '', '^(.*):%d+$')
  local created = member and redis.call('HGET', string.format(state_pattern, member), 'created_ms')
  return created and math.max(0, now - tonumber(created)) or 0
end

for _, flow in ipairs(redis.call('ZRANGE', turns, 0, flows_max - 1)) do
  local waiting, name = queue .. ':waiting:' .. flow, string.match(flow, '([^/]*)$')
  local jobs = redis.call('LLEN', waiting)
  local tier = tiers[name]
  if not tier then
    tier = {0, 0}
    tiers[name], names[#names + 1] = tier, name
  end
  tier[1], tier[2] = tier[1] + jobs, math.max(tier[2], age_of(redis.call('LINDEX', waiting, 0)))
  rest = rest - jobs
end
local waits, present = {}, {}
for _, name in ipairs(names) do
  for _, value in ipairs({name, tiers[name][1], tiers[name][2]}) do waits[#waits + 1] = value end
end
for i = REST, #ARGV do
  present[#present + 1] = redis.call('ZCOUNT', string.format(presence_pattern, ARGV[i]), now, '+inf')
end
return {redis.call('ZCARD', active), present, math.max(0, rest), waits}
