#!/bin/sh
# Makes the files that compose.yaml mounts as secrets: the Redis password, the key that seals the secrets in
# requests for MCP servers, the key that seals what clients carry, a first API key, and an empty list of MCP
# servers. Prints the API key once; only its hash is kept. Never overwrites anything.
#
#   sh deploy/make_secrets.sh [FOLDER] [TENANT]
set -eu
folder="${1:-$(dirname "$0")/secrets}"
tenant="${2:-default}"

case "$tenant" in
    *[!A-Za-z0-9._-]* | "")
        echo "TENANT: letters, digits, '.', '_' and '-' only, not '$tenant'" >&2
        exit 2
        ;;
esac
if [ "${#tenant}" -gt 64 ]; then
    echo "TENANT: 64 characters at most, not ${#tenant}" >&2
    exit 2
fi
if [ -e "$folder" ]; then
    echo "FOLDER: $folder is there already; remove it to make new secrets" >&2
    exit 1
fi

random_hex() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}
random_key() {
    head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'
}
sha256_hex() {
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}

# Only the owner can enter the folder. The files in it are readable, because the containers, into which they
# are mounted one by one, run as other users.
umask 022
mkdir -p "$(dirname "$folder")"
mkdir -m 700 "$folder"
password="$(random_hex)"
key="sk-$(random_hex)"
hash="$(printf '%s' "$key" | sha256_hex)"

printf 'requirepass %s\n' "$password" >"$folder/redis_password.conf"
printf 'redis://:%s@redis:6379/0' "$password" >"$folder/redis_url"
printf '{"tenants": {"%s": {"keys": ["%s"]}}}\n' "$tenant" "$hash" >"$folder/api_keys.json"
random_key >"$folder/secrets_key"
printf '["%s"]\n' "$(random_key)" >"$folder/seal_keys"
printf '{}\n' >"$folder/mcp_servers.json"

echo "secrets are in $folder" >&2
echo "API key of tenant $tenant, shown this once:" >&2
echo "$key"
