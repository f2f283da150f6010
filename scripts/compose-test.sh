#!/bin/bash
# docker-compose.yml at work: builds all images, starts everything, moves a guest with a request through the published
# port, and removes what it made. Needs root; no registry and no container engine that runs: it starts one of its own,
# in a network namespace of its own.
#
#   scripts/compose-test.sh    WHIMBREL_PROGRAMS names a folder with programs, if they are not to be built
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD

[[ $(id -u) == 0 ]] || { echo "compose-test: needs root" >&2; exit 1; }
scripts/setup-deploy.sh compose
cache=$source/.lab/cache/deploy
work=$(mktemp -d /tmp/whimbrel-compose.XXXXXX)
begun=$SECONDS
say() { printf '[%3d s] %s\n' $((SECONDS - begun)) "$*"; }
fail() {
    say "FAILED: $*"
    compose ps || true
    compose logs --tail=20 2>&1 | tail -120 || true
    exit 1
}
compose() { docker-compose --project-directory "$work/context" -f "$work/context/docker-compose.yml" -p whimbrel "$@"; }

engine=
clean_up() {
    local status=$?
    if [[ -n $engine ]] && kill -0 "$engine" 2>/dev/null; then
        compose down --volumes --timeout 5 >/dev/null 2>&1 || true
        kill "$engine" && timeout 30 tail --pid="$engine" -f /dev/null || true
    fi
    umount "$work"/engine/netns/* 2>/dev/null || true
    grep -o " $work/[^ ]*" /proc/self/mounts | sort -r | xargs -r umount -l 2>/dev/null || true
    rm -rf "$work"
    say "removed what was made"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

export DOCKER_HOST=unix://$work/docker.sock DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0 DOCKER_CONFIG=$work/config
export VERSION=test REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown) WITH_QEMU_IMG=no
export BUILD_IMAGE=whimbrel-test/base BASE_IMAGE=whimbrel-test/base
export POSTGRES_IMAGE=whimbrel-test/postgres RABBITMQ_IMAGE=whimbrel-test/rabbitmq

if [[ -z ${WHIMBREL_PROGRAMS:-} ]]; then
    say "building programs"
    cargo build --quiet -p whimbrel-api -p whimbrel-conductor -p whimbrel-scheduler -p whimbrel-compute -p whimbrel-db --bins
    WHIMBREL_PROGRAMS=${CARGO_TARGET_DIR:-target}/debug
fi
context=$work/context
mkdir -p "$context/dist" "$context/scripts" "$work/config"
cp Dockerfile docker-compose.yml docker-compose.libvirt.yml "$context/"
cp scripts/image-programs.sh "$context/scripts/"
for program in whimbrel-{api,conductor,scheduler,compute,db}; do
    strip -o "$context/dist/$program" "$WHIMBREL_PROGRAMS/$program"
done
scripts/compose-secrets.sh "$context/deploy/compose/secrets"
password=$(<"$context/deploy/compose/secrets/admin_password")

say "starting a container engine of its own"
unshare --net sh -c "ip link set lo up; exec dockerd --data-root $work/data --exec-root $work/engine -p $work/docker.pid \
    -H $DOCKER_HOST --bip 172.29.0.1/24 --storage-driver=overlay2" >"$work/engine.log" 2>&1 &
engine=$!
for _ in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
docker version >/dev/null 2>&1 || { tail -20 "$work/engine.log"; say "FAILED: the engine did not start"; exit 1; }

say "making base images"
docker import "$cache/base.tar" whimbrel-test/base >/dev/null
docker import "$cache/servers.tar" whimbrel-test/servers >/dev/null
for server in postgres rabbitmq; do
    docker build --quiet --build-arg SERVERS_IMAGE=whimbrel-test/servers -f tests/compose/servers.Dockerfile \
        --target "$server" -t "whimbrel-test/$server" tests/compose >>"$work/build.log" 2>&1
done

say "building images"
compose build >"$work/build.log" 2>&1 || { tail -30 "$work/build.log"; fail "building images"; }
docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep '^whimbrel/' | sort
user=$(docker image inspect -f '{{.Config.User}}' whimbrel/compute:test)
[[ $user == 10001:10001 ]] || fail "the image runs as '$user'"
label=$(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.version"}}' whimbrel/api:test)
[[ $label == test ]] || fail "the image's version label is '$label'"

WHIMBREL_HOST=h MIGRATION_ADDRESS=192.0.2.1 compose -f "$context/docker-compose.libvirt.yml" config -q ||
    fail "docker-compose.libvirt.yml is not good"

say "starting everything"
compose up -d >"$work/up.log" 2>&1 || { tail -30 "$work/up.log"; fail "starting"; }

healthy() { # all that have a health check are healthy
    local ids id
    ids=$(compose ps -q postgres rabbitmq api conductor scheduler compute-a compute-b)
    for id in $ids; do
        [[ $(docker inspect -f '{{.State.Health.Status}}' "$id") == healthy ]] || return 1
    done
    (($(wc -w <<<"$ids") == 7))
}
wait_for() { # WHAT SECONDS COMMAND...
    local what=$1 limit=$((SECONDS + $2))
    shift 2
    until "$@"; do
        ((SECONDS < limit)) || fail "waited in vain for $what"
        sleep 0.5
    done
    say "$what"
}
wait_for "all containers are healthy" 180 healthy

# Through the port that is published where the engine lives.
ask() { # METHOD PATH [CURL ARGUMENT...]
    local method=$1 path=$2
    shift 2
    nsenter --net="/proc/$engine/ns/net" curl --silent --show-error --fail-with-body --max-time 20 \
        -u "admin:$password" -X "$method" -H 'OpenStack-API-Version: compute 2.90' "$@" "http://127.0.0.1:8774$path"
}
send() { ask "$1" "$2" -H 'Content-Type: application/json' -d "$3"; }
field() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

nsenter --net="/proc/$engine/ns/net" curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8774/v2.1/servers |
    grep -q 401 || fail "somebody without a password was let in"
two_hosts() { [[ $(ask GET '/v2.1/os-services?binary=nova-compute' | field "['services'].__len__()") == 2 ]]; }
wait_for "both hosts report" 60 two_hosts
send POST /v2.1/flavors '{"flavor": {"name": "small", "id": "1", "ram": 256, "vcpus": 1, "disk": 1}}' >/dev/null
send POST /v2.0/networks '{"network": {"name": "net", "provider:physical_network": "br0", "cidr": "10.78.0.0/16"}}' >/dev/null
image=$(send POST /v2/images '{"name": "image", "disk_format": "raw", "container_format": "bare"}' | field "['id']")
head -c 4096 /dev/zero | ask PUT "/v2/images/$image/file" -H 'Content-Type: application/octet-stream' --data-binary @-
server=$(send POST /v2.1/servers "{\"server\": {\"name\": \"guest\", \"imageRef\": \"$image\", \"flavorRef\": \"1\", \"networks\": \"auto\"}}" |
    field "['server']['id']")
status_is() { [[ $(ask GET "/v2.1/servers/$server" | field "['server']['status']") == "$1" ]]; }
host_of() { ask GET "/v2.1/servers/$server" | field "['server']['OS-EXT-SRV-ATTR:host']"; }
wait_for "the server runs" 60 status_is ACTIVE
from=$(host_of)

say "moving it away from $from"
send POST "/v2.1/servers/$server/action" '{"os-migrateLive": {"host": null, "block_migration": "auto"}}'
moved() {
    [[ $(ask GET "/v2.1/os-migrations?instance_uuid=$server" | field "['migrations'][0]['status']") == completed ]]
}
wait_for "the migration is completed" 60 moved
to=$(host_of)
[[ $to != "$from" ]] || fail "the server is still on $from"
compose exec -T compute-a sh -c "ls /var/lib/whimbrel/world/$to/$server.guest && ! ls /var/lib/whimbrel/world/$from/$server.guest 2>&-" \
    >/dev/null || fail "the guest is not on $to alone"
say "it moved from $from to $to"

figure() { # SERVICE PATTERN: waits until the service's metrics have such a line
    local address
    address=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(compose ps -q "$1")")
    nsenter --net="/proc/$engine/ns/net" curl -s --max-time 10 "http://$address:9464/metrics" | grep -qE "$2"
}
wait_for "conductors count the migration" 30 \
    figure conductor '^whimbrel_migrations\{type="live-migration",status="completed"\} 1$'
wait_for "conductors count hosts" 30 figure conductor '^whimbrel_hosts\{state="up"\} 2$'
wait_for "the API counts answers by route" 5 \
    figure api '^whimbrel_http_request_duration_seconds_bucket\{.*route="/v2.1/servers/\{server_id\}/action",status="202",le="\+Inf"\} 1$'

say "starting the hosts again touches no guest"
compose restart compute-a compute-b >/dev/null 2>&1
wait_for "all containers are healthy" 120 healthy
status_is ACTIVE && [[ $(host_of) == "$to" ]] || fail "the guest did not outlive its agent"

# Health follows what is there: without a broker nobody is ready, and everybody lives.
compose stop -t 2 rabbitmq >/dev/null 2>&1
not_ready() { ! compose exec -T conductor whimbrel-conductor probe >/dev/null 2>&1; }
wait_for "without a broker the conductor is not ready" 30 not_ready
compose exec -T conductor whimbrel-conductor probe --live >/dev/null || fail "without a broker the conductor is dead"
compose start rabbitmq >/dev/null 2>&1
wait_for "with a broker all are ready again" 120 healthy
compose exec -T conductor whimbrel-conductor config print | grep -q "$password\|$(<"$context/deploy/compose/secrets/amqp_password")" &&
    fail "config print shows a password"
compose logs 2>&1 | grep -q "$(<"$context/deploy/compose/secrets/amqp_password")" && fail "a log shows a password"

say "passed: a live migration through docker-compose"
