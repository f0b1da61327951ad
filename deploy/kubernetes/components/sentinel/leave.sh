#!/bin/sh
# Before a server ends: if it is the primary, has the Sentinels promote a replica, and waits until it has become one
# itself. That pause is shorter than the one until the Sentinels notice a primary that has gone.
set -eu
password="$(sed 's/^requirepass //' "${PASSWORD_FILE:-/run/secrets/redis_password}")"
export VALKEYCLI_AUTH="$password" REDISCLI_AUTH="$password"
is_primary() {
    valkey-cli -h "$HOST" -p "$PORT" ROLE | head -n 1 | grep -qx master
}
tries=0
while is_primary && [ "$tries" -lt 20 ]; do
    # Refused while there is no good replica, or another failover is in progress.
    for sentinel in $SENTINELS; do
        env -u VALKEYCLI_AUTH -u REDISCLI_AUTH valkey-cli -h "${sentinel%:*}" -p "${sentinel##*:}" -t 2 \
            SENTINEL FAILOVER main 2>/dev/null | grep -qx OK && break
    done || true
    sleep 2
    tries=$((tries + 1))
done
