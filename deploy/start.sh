#!/bin/sh
# Gives a role its Redis URL from the secret's file, so that no inspection of the container shows it.
set -eu
secret=/run/secrets/redis_url
if [ -r "$secret" ]; then
    ANTIPHON_REDIS_URL="$(cat "$secret")"
    export ANTIPHON_REDIS_URL
fi
exec "$@"
