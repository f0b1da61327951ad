-- Claims entries that are due, for `claim_ms`; if their sender dies, or never gets the reply, they fall due again. A webhook
-- that has more than was claimed comes after all others that are due now.
-- `claimed` holds the name of the sender's last claim and what that got, for a claim that is sent twice.
-- `room`: how many entries the sender takes of a tenant, or of a webhook (`tenant/name`); `tenant_max` and `webhook_max`
-- of those that are not named. Of webhooks that are ailing (`is_ailing` is 1) it takes `ailing_max` in all.
-- USES redis/clock webhooks/outbox
-- KEYS outboxes claimed
-- ARGV claim claim_ms# count_max# tenant_max# webhook_max# ailing_max# (name room is_ailing)…
-- -> {now_ms, (webhook entry)…}
local now = now_ms()
if redis.call('LINDEX', claimed, 0) == claim then
  local reply = redis.call('LRANGE', claimed, 1, -1)
  table.insert(reply, 1, now)
  return reply
end

local WEBHOOKS_MAX = 16  -- of a tenant
local rooms, is_ailing, taken = {}, {}, {}
for place = REST, #ARGV, 3 do
  rooms[ARGV[place]], is_ailing[ARGV[place]] = tonumber(ARGV[place + 1]), ARGV[place + 2] == '1'
end
local looked_at_max = count_max + WEBHOOKS_MAX * (#ARGV - REST + 1) / 3

-- Claims what there is room for.
local function claim_of(webhook, room)
  local outbox = outbox_of(outboxes, webhook)
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', outbox, '-inf', now, 'LIMIT', 0, room)) do
    redis.call('ZADD', outbox, 'XX', now + claim_ms, entry)
    taken[#taken + 1] = webhook
    taken[#taken + 1] = entry
  end
  local following = redis.call('ZRANGE', outbox, 0, 0, 'WITHSCORES')
  if following[2] then
    redis.call('ZADD', outboxes, 'XX', math.max(now, tonumber(following[2])), webhook)
  else
    redis.call('ZREM', outboxes, webhook)
  end
end

for _, webhook in ipairs(redis.call('ZRANGEBYSCORE', outboxes, '-inf', now, 'LIMIT', 0, looked_at_max)) do
  local tenant, before = string.match(webhook, '^(.*)/'), #taken
  local of_tenant = rooms[tenant] or tenant_max
  local room = math.min(rooms[webhook] or webhook_max, of_tenant, count_max - before / 2)
  if is_ailing[webhook] then room = math.min(room, ailing_max) end
  if room > 0 then claim_of(webhook, room) end
  local got = (#taken - before) / 2
  rooms[tenant] = of_tenant - got
  if is_ailing[webhook] then ailing_max = ailing_max - got end
end
if #taken > 0 then
  redis.call('DEL', claimed)
  redis.call('RPUSH', claimed, claim, unpack(taken))
  redis.call('PEXPIRE', claimed, claim_ms)
end
return {now, unpack(taken)}
