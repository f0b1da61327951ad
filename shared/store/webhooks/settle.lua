-- Ends what was claimed: an entry is delivered, is tried again, or is given up.
-- `again`: the entry with one more failure, due in `due_in_ms`; '' if it is not tried again.
-- `reason`: why it is given up; '' if it is delivered or tried again.
-- USES redis/clock webhooks/outbox
-- KEYS outboxes dead_letters
-- ARGV webhook entry again due_in_ms# ttl_ms# reason dead_max# dead_ttl_ms#
-- -> 'settled' | 'gone'
if redis.call('ZREM', outbox_of(outboxes, webhook), entry) == 0 then return 'gone' end  -- sent twice, or by another
if again ~= '' then post(outboxes, webhook, again, now_ms() + due_in_ms, ttl_ms) end
if reason ~= '' then bury(outboxes, dead_letters, webhook, entry, reason, dead_max, dead_ttl_ms) end
return 'settled'
