#!/bin/sh
# Reads a role's secrets from their files, so that inspecting the container does not show them, and names the
# process after its container or pod, so that its own health check finds it.
set -eu
ANTIPHON_PLACE="${ANTIPHON_PLACE:-$(uname -n)}"
export ANTIPHON_PLACE
if [ -r /run/secrets/redis_url ]; then
    ANTIPHON_REDIS_URL="$(cat /run/secrets/redis_url)"
    export ANTIPHON_REDIS_URL
fi
if [ -r /run/secrets/secrets_key ]; then
    ANTIPHON_SECRETS_KEY="$(cat /run/secrets/secrets_key)"
    export ANTIPHON_SECRETS_KEY
fi
if [ -r /run/secrets/seal_keys ]; then
    ANTIPHON_SEAL_KEYS="$(cat /run/secrets/seal_keys)"
    export ANTIPHON_SEAL_KEYS
fi
if [ -r /run/secrets/console_key ]; then
    ANTIPHON_CONSOLE_KEY="$(cat /run/secrets/console_key)"
    export ANTIPHON_CONSOLE_KEY
fi
exec "$@"
