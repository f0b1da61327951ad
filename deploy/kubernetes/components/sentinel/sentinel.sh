#!/bin/sh
# Starts a Sentinel. It writes to its own configuration what it learns, so that only its first start begins with
# FIRST_PRIMARY; a new password is entered at every start.
set -eu
password="$(sed 's/^requirepass //' "${PASSWORD_FILE:-/run/secrets/redis_password}")"
conf="${FOLDER:-/data}/sentinel.conf"

umask 077
if [ ! -s "$conf" ]; then
    # A name that does not lead anywhere yet would be refused.
    until getent hosts "${FIRST_PRIMARY%:*}" >/dev/null; do sleep 1; done
    cat >"$conf" <<END
bind ${BIND:-* -::*}
port $PORT
dir ${FOLDER:-/data}
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $HOST
sentinel announce-port $PORT
sentinel monitor main ${FIRST_PRIMARY%:*} ${FIRST_PRIMARY##*:} 2
sentinel down-after-milliseconds main ${DOWN_AFTER_MS:-3000}
sentinel failover-timeout main 10000
END
fi
sed -i '/^sentinel auth-pass /d' "$conf"
echo "sentinel auth-pass main $password" >>"$conf"
exec valkey-server "$conf" --sentinel
