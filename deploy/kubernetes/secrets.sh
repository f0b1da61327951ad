#!/bin/sh
# Prints the Secrets that the pods mount, from the files that deploy/make_secrets.sh made, for `kubectl apply -f -`.
#
#   sh deploy/kubernetes/secrets.sh [--sentinels] [FOLDER]
#
# --sentinels: the pods ask the Sentinels of components/sentinel where Redis is, instead of using FOLDER/redis_url.
set -eu
sentinels=""
if [ "${1:-}" = --sentinels ]; then
    sentinels=yes
    shift
fi
folder="${1:-$(dirname "$0")/../secrets}"
if [ ! -r "$folder/redis_url" ]; then
    echo "FOLDER: $folder contains no secrets; make them with deploy/make_secrets.sh" >&2
    exit 1
fi

encode() {
    base64 | tr -d '\n'
}
secret() {
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: antiphon}\ndata:\n' "$1"
}
field() {
    printf '  %s: %s\n' "$1" "$(encode)"
}

password="$(sed 's/^requirepass //' "$folder/redis_password.conf")"
if [ -n "$sentinels" ]; then
    hosts=""
    for number in 0 1 2; do
        hosts="$hosts${hosts:+,}sentinel-$number.sentinels.antiphon.svc:26379"
    done
    url="redis+sentinel://:$password@$hosts/main/0"
else
    url="$(cat "$folder/redis_url")"
fi

secret redis
printf %s "$url" | field redis_url
printf %s "$password" | field password
field redis_password.conf <"$folder/redis_password.conf"
secret keys
for name in secrets_key seal_keys; do
    field "$name" <"$folder/$name"
done
secret tenants
field api_keys.json <"$folder/api_keys.json"
secret mcp-servers
field mcp_servers.json <"$folder/mcp_servers.json"
