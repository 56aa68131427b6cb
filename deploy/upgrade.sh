#!/bin/sh
# Upgrades the production stack of docker-compose.prod.yml without an interruption: the migrations first, then one
# instance after the other, each when the one before it is ready.
#
#   deploy/upgrade.sh [--build | --pull] [--no-migrate]
#
# --build makes the image of this checkout, --pull takes it from its registry, and without either it is there already.
# --no-migrate is for going back to the release before, which does not know the newer migrations.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "upgrade.sh: $*" >&2
    exit 1
}

if docker compose version >/dev/null 2>&1; then
    compose() { docker compose "$@"; }
else
    compose() { docker-compose "$@"; }
fi

# Where neither the environment nor .env says so, as config/production.json does.
is_set() {
    [ -n "$(printenv "$1")" ] || grep -qs "^$1=." .env
}
is_set COMPOSE_FILE || export COMPOSE_FILE=docker-compose.prod.yml
is_set COMPOSE_PROJECT_NAME || export COMPOSE_PROJECT_NAME=users-production

images=there migrate=yes
for argument; do
    case $argument in
    --build) images=build ;;
    --pull) images=pull ;;
    --no-migrate) migrate=no ;;
    *) fail "$argument is none of --build, --pull and --no-migrate." ;;
    esac
done

compose config --services | grep -qx users-2 || fail "COMPOSE_FILE names another stack than the production one."
for instance in users users-2; do
    [ -n "$(compose ps -q "$instance")" ] || fail "$instance does not run; start the stack with: docker compose up -d"
done

# replace SERVICE: removes its container first, since docker-compose 1.29 cannot replace one whose image BuildKit made.
replace() {
    compose rm --stop --force "$1"
    compose up -d --no-deps "$1"
}

# await_readiness SERVICE: returns when /health says "up", which is the service's health check.
await_readiness() {
    polls=120
    until [ "$(docker inspect --format '{{.State.Health.Status}}' "$(compose ps -q "$1")")" = healthy ]; do
        polls=$((polls - 1))
        if [ "$polls" -eq 0 ]; then
            compose logs --tail 20 "$1" >&2
            fail "$1 is not ready after 2 minutes. What is not replaced yet serves on; to go back:" \
                "IMAGE_TAG=<the one before> deploy/upgrade.sh --no-migrate"
        fi
        sleep 1
    done
}

[ "$images" = there ] || compose "$images" users users-2 worker users-migrate
# The release that runs works on the migrated tables too. A migration that fails changes nothing, and ends this here.
if [ "$migrate" = yes ]; then
    compose run --rm --no-deps -T users-migrate
    # That of the start, which would be run again, from the old image.
    compose rm --force users-migrate
fi
for instance in users users-2; do
    replace "$instance"
    await_readiness "$instance"
done
replace worker
# In case its configuration is another one now.
compose exec -T nginx nginx -c /etc/nginx/users/nginx.conf -s reload
echo "Upgraded."
