#!/bin/sh
# Starts a server: as the primary if the Sentinels say that it is, otherwise as a replica of the one they name. It
# waits until they do, so that a former primary that comes back never takes writes.
set -eu
here="$(dirname "$0")"
password="$(sed 's/^requirepass //' "${PASSWORD_FILE:-/run/secrets/redis_password}")"
until primary="$(sh "$here/primary.sh")"; do sleep 1; done

umask 077
{
    echo "include $here/valkey.conf"
    echo "masterauth $password"
    echo "port $PORT"
    # The Sentinels, the other servers and the roles must know it by the same name.
    echo "replica-announce-ip $HOST"
    echo "replica-announce-port $PORT"
    echo "repl-diskless-sync-delay 0"
    # A primary that has lost its replicas accepts nothing that nobody else has.
    echo "min-replicas-to-write 1"
    echo "min-replicas-max-lag 2"
    [ "$primary" = "$HOST $PORT" ] || echo "replicaof $primary"
} >"${FOLDER:-/tmp}/server.conf"
exec valkey-server "${FOLDER:-/tmp}/server.conf"
