#!/bin/sh
# Writes a backup of the server in whose container it runs to its standard output: its append-only file, as a tar
# (docs/backup.md). The server goes on meanwhile; only the rewriting of that file waits.
#
#   docker compose exec -T redis sh -s <deploy/backup.sh >antiphon.tar
#   kubectl -n antiphon exec -i redis-0 -- sh -s <deploy/backup.sh >antiphon.tar
#
# HOST, PORT, PASSWORD_FILE and FOLDER name another server and where it keeps its file.
set -eu
password="$(sed 's/^requirepass //' "${PASSWORD_FILE:-/run/secrets/redis_password}")"
export VALKEYCLI_AUTH="$password" REDISCLI_AUTH="$password"
ask() {
    valkey-cli -h "${HOST:-127.0.0.1}" -p "${PORT:-6379}" "$@" </dev/null  # the script itself may come from there
}

before="$(ask CONFIG GET auto-aof-rewrite-percentage | tail -n 1)"
case "$before" in
    *[!0-9]* | "")
        echo "the server does not say when it rewrites its file: $before" >&2
        exit 1
        ;;
esac
restore() {
    ask CONFIG SET auto-aof-rewrite-percentage "$before" >&2
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
ask CONFIG SET auto-aof-rewrite-percentage 0 >&2
while ask INFO persistence | grep -Eq '^aof_rewrite_(in_progress|scheduled):1'; do sleep 1; done
# It may grow while it is read: then GNU's tar says so by 1, and what it has is what the server held at some moment.
tar -C "${FOLDER:-/data}" -cf - appendonlydir || [ "$?" = 1 ]
