#!/bin/sh
# Prints host and port of the primary that two Sentinels agree on, in one line; fails if no two do. One alone may
# have been away, and name a former one.
set -eu
for sentinel in $SENTINELS; do
    valkey-cli -h "${sentinel%:*}" -p "${sentinel##*:}" -t 2 SENTINEL GET-MASTER-ADDR-BY-NAME main 2>/dev/null |
        paste -sd ' ' - || true
done | grep -E '^[^ ]+ [0-9]+$' | sort | uniq -d | grep .
