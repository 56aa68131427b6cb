#!/bin/sh
# Releases the images that were pushed to Heroku's registry as `web`, `worker` and `release`: Heroku runs the last one,
# which migrates the database, and only when it ends well do the others replace what runs now.
#
# HEROKU_APP_NAME and HEROKU_AUTH_TOKEN must be set. Needs curl and Python 3.
set -eu
set +x # a trace would show the token

fail() {
    echo "release.sh: $*" >&2
    exit 1
}

app=${HEROKU_APP_NAME:-}
token=${HEROKU_AUTH_TOKEN:-}
# No program that is called here has it in its environment, or in its arguments.
unset HEROKU_AUTH_TOKEN
api=${HEROKU_API_URL:-https://api.heroku.com}
registry=${HEROKU_REGISTRY_URL:-https://registry.heroku.com}
seconds_between=${RELEASE_POLL:-5}
polls=${RELEASE_POLLS:-240}

case $app in
'' | *[!a-z0-9-]*) fail "HEROKU_APP_NAME must be the name of an app." ;;
esac
case $token in
'' | *[!A-Za-z0-9._~+/=-]*) fail "HEROKU_AUTH_TOKEN must be a token of Heroku's." ;;
esac

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
trap 'exit 1' HUP INT TERM

# json EXPRESSION: prints the value of a Python expression of the last answer, `it`; nothing where there is none.
json() {
    python3 -IS - "$answer" "$1" <<'PYTHON'
import json, sys
try:
    it = json.load(open(sys.argv[1], encoding="utf-8"))
    print(eval(sys.argv[2]) or "")
except (ValueError, LookupError, TypeError, AttributeError):
    pass
PYTHON
}

# call CREDENTIALS CURL_ARGUMENT...: leaves the body of the answer in $answer, or fails with what the server says.
call() {
    credentials=$1
    shift
    # From its standard input, so that the token is in no argument; -q so that no .curlrc makes it say more.
    status=$(printf '%s\n' "$credentials" |
        curl -q --silent --show-error --proto '=https' --connect-timeout 10 --max-time 60 \
            --output "$answer" --write-out '%{http_code}' --config - "$@") || fail "$1 cannot be reached."
    case $status in
    2??) return ;;
    esac
    said=$(json 'it["errors"][0]["message"] if "errors" in it else it["message"]')
    fail "$1 answered with status $status: ${said:-$(head -c 500 "$answer")}"
}

# heroku PATH CURL_ARGUMENT...
heroku() {
    path=$1
    shift
    call "header = \"Authorization: Bearer $token\"" "$api/apps/$app/$path" "$@"
}

# get PATH CURL_ARGUMENT...: asks again where the server or the network has a bad moment.
get() {
    heroku "$@" --retry 3 --header 'Accept: application/vnd.heroku+json; version=3'
}

latest() {
    get releases --header 'Range: version ..; max=1, order=desc'
}

# The id of an image is the digest of its configuration. It is read from the registry, since what `docker inspect`
# calls Id is another digest where the engine keeps its images in containerd's store.
image_id() {
    manifest=application/vnd.docker.distribution.manifest.v2+json
    call "user = \"_:$token\"" "$registry/v2/$app/$1/manifests/latest" --retry 3 --header "Accept: $manifest"
    type=$(json 'it["mediaType"]')
    [ "$type" = "$manifest" ] ||
        fail "the image $1 has a manifest of the type '$type', and Heroku takes only '$manifest':" \
            "build it without provenance and SBOM."
    id=$(json 'it["config"]["digest"]')
    case $id in
    sha256:*) ;;
    *) fail "the manifest of the image $1 names no configuration." ;;
    esac
}

image_id release
release=$id
image_id worker
worker=$id
image_id web
web=$id

latest
before=$(json 'it[0]["id"]')

updates="{\"updates\": [{\"type\": \"web\", \"docker_image\": \"$web\"},"
updates="$updates {\"type\": \"worker\", \"docker_image\": \"$worker\"},"
updates="$updates {\"type\": \"release\", \"docker_image\": \"$release\"}]}"
heroku formation --request PATCH --header 'Accept: application/vnd.heroku+json; version=3.docker-releases' \
    --header 'Content-Type: application/json' --data "$updates"

latest
release=$(json 'it[0]["id"]')
version=$(json 'it[0]["version"]')
if [ "$release" = "$before" ]; then
    echo "Nothing to release: $app runs these images already."
    exit
fi
echo "Release v$version of $app: web is $web."

while
    get "releases/$release"
    status=$(json 'it["status"]')
    [ "$status" = pending ]
do
    polls=$((polls - 1))
    [ "$polls" -gt 0 ] || fail "release v$version has not ended yet; see: heroku releases --app $app"
    sleep "$seconds_between"
done

output=$(json 'it["output_stream_url"]')
if [ -n "$output" ]; then
    # What the migration said. The address is a secret of its own, and needs no token.
    printf 'url = "%s"\n' "$output" |
        curl -q --silent --proto '=https' --connect-timeout 10 --max-time 30 --config - || echo "(its output is gone)"
fi
[ "$status" = succeeded ] || fail "release v$version ended with the status '$status'; what ran before runs on."
echo "Released v$version."
