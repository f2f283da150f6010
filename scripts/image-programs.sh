#!/bin/sh
# Puts the programs of all images into a folder: those of dist/ if they are there, else built from here. Run by the Dockerfile.
#
#   scripts/image-programs.sh FOLDER
set -eu
out=$1
programs="whimbrel-api whimbrel-conductor whimbrel-scheduler whimbrel-compute whimbrel-db"
mkdir -p "$out"

if [ -d dist ]; then
    for program in $programs; do install -m 755 "dist/$program" "$out/"; done
    exit 0
fi

apt-get update
apt-get install -y --no-install-recommends gcc libc6-dev libvirt-dev pkg-config
cargo build --release --locked \
    -p whimbrel-api -p whimbrel-conductor -p whimbrel-scheduler -p whimbrel-compute -p whimbrel-db
for program in $programs; do
    install -m 755 "target/release/$program" "$out/"
    strip "$out/$program"
done
