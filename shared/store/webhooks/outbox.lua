-- The outbox: what webhooks have to deliver. `outboxes` is a sorted set of webhooks (`tenant/name`) by when (ms) something
-- of theirs may be due; the outbox of each is a sorted set of entries, `response_id status closed_ms failures`, by when
-- (ms) they are due. An entry that is being delivered is due again when its claim lapses.

-- The key of a webhook's outbox.
local function outbox_of(outboxes, webhook) return outboxes .. ':' .. webhook end

-- Lets an entry wait until it is due.
local function post(outboxes, webhook, entry, due_ms, ttl_ms)
  local outbox = outbox_of(outboxes, webhook)
  redis.call('ZADD', outbox, due_ms, entry)
  redis.call('ZADD', outboxes, 'LT', due_ms, webhook)
  for _, key in ipairs({outbox, outboxes}) do
    if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
  end
end

-- The key of how many entries were given up, of all tenants.
local function given_up_of(outboxes) return outboxes .. ':given_up' end

-- Gives an entry up. `dead_letters` keeps the last `count_max` of its tenant.
local function bury(outboxes, dead_letters, webhook, entry, reason, count_max, ttl_ms)
  redis.call('XADD', dead_letters, 'MAXLEN', count_max, '*', 'webhook', webhook, 'entry', entry, 'reason', reason)
  redis.call('INCR', given_up_of(outboxes))
  for _, key in ipairs({dead_letters, given_up_of(outboxes)}) do redis.call('PEXPIRE', key, ttl_ms) end
end

-- Posts the end of a response to each webhook in `names`; one whose outbox is full gives it up.
local function announce_end(outboxes, dead_letters, tenant, names, entry, now, limits)
  for name in string.gmatch(names, '%S+') do
    local webhook = tenant .. '/' .. name
    if redis.call('ZCARD', outbox_of(outboxes, webhook)) < limits.waiting_max then
      post(outboxes, webhook, entry, now, limits.ttl_ms)
    else
      bury(outboxes, dead_letters, webhook, entry, 'too many wait', limits.dead_max, limits.dead_ttl_ms)
    end
  end
end
