-- Counts the webhooks that may have something due.
-- USES redis/clock
-- KEYS outboxes
-- -> how many
return redis.call('ZCOUNT', outboxes, '-inf', now_ms())
