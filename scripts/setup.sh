#!/bin/bash
# Installs what Whimbrel's lab and tests need. Idempotent: with nothing missing it takes under a second.
#
#   scripts/setup.sh           install what is missing (as root, or through sudo)
#   scripts/setup.sh --check   only say what is missing; exit 1 if anything is
#
# No service is started by it, and no service of the machine is used later: the lab starts its own.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${WHIMBREL_LAB_CACHE:-$root/.lab/cache}
minimum_qemu=9

# package|why
packages="
postgresql-15|the project's private database server
rabbitmq-server|the project's private message broker
libvirt-daemon|libvirtd, one for each host of the lab
libvirt-daemon-driver-qemu|libvirt's QEMU driver
libvirt-clients|virsh: the yardstick of 'make bench', and for looking around
libvirt-dev|headers and pkg-config file to link whimbrel-compute against libvirt
libpq-dev|headers to link the database layer against libpq
pkg-config|finds libvirt when building
gcc|links Rust programs
libc6-dev|links Rust programs
iproute2|network namespaces, bridges and links of the lab
iputils-ping|counts what a migration loses
util-linux|unshare, nsenter and setpriv
procps|ps, to look at the processes of the lab
busybox-static|user space of the guest
syslinux|boot loader of the guest's disk
syslinux-common|boot sector of the guest's disk
mtools|writes the guest's boot partition without mounting it
dosfstools|makes the guest's boot partition
curl|for examples in the documentation
python3-venv|a place of their own for the OpenStack clients that tests drive
"
# From backports when the release's own is older than QEMU 9, which loses guest memory in live migrations
# under emulation (dirty bits cleared without resetting the emulator's TLB).
qemu_packages="
qemu-system-x86|runs the guests
qemu-utils|qemu-img makes and checks disks
seabios|firmware of the guests
"

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }

names() { sed -n 's/^\([^|]\+\)|.*/\1/p' <<<"$1"; }
why() { sed -n "s/^$1|//p" <<<"$packages$qemu_packages"; }

installed() { # prints those of its arguments that are installed
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' || true
}
absent() {
    local have
    have=" $(installed "$@" | tr '\n' ' ') "
    for name in "$@"; do [[ $have == *" $name "* ]] || printf '%s\n' "$name"; done
}
major_of() { local version=${1#*:}; printf '%s' "${version%%.*}"; }
installed_major() {
    local version
    version=$(dpkg-query -W -f '${Version}' "$1" 2>/dev/null) || true
    major_of "${version:-0}"
}
old_qemu() {
    for name in qemu-system-x86 qemu-utils; do
        (($(installed_major "$name") >= minimum_qemu)) || printf '%s\n' "$name"
    done
}

kernel_there() { [[ -s $cache/kernel/vmlinuz && -s $cache/kernel/modules/button.ko && -s $cache/kernel/release ]]; }

missing=$(absent $(names "$packages"))
missing_qemu=$( { absent $(names "$qemu_packages"); old_qemu; } | sort -u)

report() {
    for name in $missing $missing_qemu; do printf '  %-28s %s\n' "$name" "$(why "$name")"; done
    kernel_there || printf '  %-28s %s\n' "a kernel image package" "the guest's kernel; unpacked into ${cache#"$root"/}/kernel, not installed"
}

if [[ -z $missing && -z $missing_qemu ]] && kernel_there; then
    exit 0
fi
if [[ ${1:-} == --check ]]; then
    say "missing:"
    report
    exit 1
fi

command -v apt-get >/dev/null || { report; die "this is not a Debian machine; install the above by hand"; }
# Unpacking a kernel into the cache needs no root.
if [[ $(id -u) != 0 && -n $missing$missing_qemu ]]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
        say "becoming root with sudo to install:"
        report
        exec sudo WHIMBREL_LAB_CACHE="$cache" "$0" "$@"
    fi
    say "would install (needs root, and sudo is not usable here):"
    report
    die "run 'scripts/setup.sh' as root, then again as yourself"
fi

export DEBIAN_FRONTEND=noninteractive
started=$SECONDS
apt_options=(-q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300)

# Nothing that is installed may start: policy-rc.d says no (101) while this script runs.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy && -w ${policy%/*} ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi

known() { apt-cache show --no-all-versions "$@" >/dev/null 2>&1; }

install_release_packages() {
    known $missing || apt-get -q update
    apt-get install "${apt_options[@]}" $missing
}

# The machine's own source of the release's main component, and the same with the suite "-backports".
# Lists and sources are private to this script: /etc/apt stays as it is.
backports_options=()
prepare_backports() {
    . /etc/os-release
    local suite=$VERSION_CODENAME-backports state=$cache/apt uri= release component entry signed
    while IFS='|' read -r uri release component entry; do
        [[ $release == "$VERSION_CODENAME" && $component == main ]] && break
        uri=
    done < <(apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)' 'Created-By: Packages')
    [[ -n $uri ]] || die "found no apt source for $VERSION_CODENAME main to derive $suite from"
    # "file:N" is stanza N of a .sources file, or line N of a .list file.
    case $entry in
    *.sources:*) signed=$(awk -v RS= -v n="${entry##*:}" 'NR == n' "${entry%:*}" | sed -n 's/^Signed-By: *//p') ;;
    *) signed=$(sed -n "${entry##*:}s/.*signed-by=\([^] ]*\).*/\1/p" "${entry%:*}") ;;
    esac
    mkdir -p "$state/sources.d" "$state/lists/partial"
    if [[ -d /etc/apt/sources.list.d ]]; then
        cp -f /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list "$state/sources.d/" 2>/dev/null || true
    fi
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n%s' "$uri" "$suite" \
        "${signed:+Signed-By: $signed$'\n'}" >"$state/sources.d/whimbrel-backports.sources"
    chown -R _apt "$state/lists/partial" 2>/dev/null || true
    backports_options=(-o "Dir::Etc::SourceParts=$state/sources.d" -o "Dir::State::Lists=$state/lists"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
    apt-get "${backports_options[@]}" -q update
}

install_qemu() {
    . /etc/os-release
    known qemu-system-x86 || apt-get -q update
    local candidate
    candidate=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
    if (($(major_of "${candidate:-0}") >= minimum_qemu)); then
        apt-get install "${apt_options[@]}" $missing_qemu
        return
    fi
    say "the release has QEMU ${candidate#*:}; taking $minimum_qemu or newer from $VERSION_CODENAME-backports"
    prepare_backports
    apt-get "${backports_options[@]}" install "${apt_options[@]}" -t "$VERSION_CODENAME-backports" $(names "$qemu_packages")
    rm -rf "$cache/apt"
}

# Modules in the order in which the guest inserts them.
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover
virtio_net virtio_blk virtio_balloon evdev button"

unpack_kernel() {
    known linux-image-cloud-amd64 || apt-get -q update
    local name work=$cache/kernel.new module found
    name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    [[ -n $name ]] || die "found no kernel image package"
    say "unpacking $name for the guest"
    rm -rf "$work"
    mkdir -p "$work/deb" "$work/modules"
    (cd "$work/deb" && apt-get -q -o APT::Sandbox::User=root download "$name")
    dpkg -x "$work"/deb/*.deb "$work/tree"
    cp "$work"/tree/boot/vmlinuz-* "$work/vmlinuz"
    for module in $modules; do
        found=$(find "$work/tree" -name "$module.ko" | head -1)
        [[ -n $found ]] || continue # built into this kernel
        cp "$found" "$work/modules/"
    done
    printf '%s\n' $modules >"$work/modules/order"
    printf '%s\n' "${name#linux-image-}" >"$work/release"
    rm -rf "$work/deb" "$work/tree" "$cache/kernel"
    mv "$work" "$cache/kernel"
}

mkdir -p "$cache"
say "installing:"
report
[[ -z $missing ]] || install_release_packages
[[ -z $missing_qemu ]] || install_qemu
kernel_there || unpack_kernel
# The cache belongs to whoever owns the checkout, also when sudo made it.
chown -R --reference="$root" "$root/.lab" 2>/dev/null || true

missing=$(absent $(names "$packages"))
missing_qemu=$( { absent $(names "$qemu_packages"); old_qemu; } | sort -u)
[[ -z $missing$missing_qemu ]] || die "still missing after installing: $missing $missing_qemu"
kernel_there || die "the guest's kernel is still missing"
say "done in $((SECONDS - started)) s"
