#!/bin/bash
# Makes the passwords that docker-compose.yml uses, each in a file of its own. What is there is kept.
#
#   scripts/compose-secrets.sh [FOLDER]
#
# Files can be read by everybody, because services in containers are not root, but only root and you enter the folder.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-deploy/compose/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
umask 022

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { # FILE: writes what comes in, unless the file is there
    if [[ -s $folder/$1 ]]; then cat >/dev/null; else cat >"$folder/$1.new" && mv "$folder/$1.new" "$folder/$1"; fi
}

for name in postgres_password amqp_password admin_password; do password | keep "$name"; done
postgres=$(<"$folder/postgres_password") amqp=$(<"$folder/amqp_password") admin=$(<"$folder/admin_password")

printf 'postgres://whimbrel:%s@postgres:5432/whimbrel\n' "$postgres" | keep database_url
printf 'amqp://whimbrel:%s@rabbitmq:5672/%%2f\n' "$amqp" | keep amqp_url
printf 'amqp://whimbrel:%s@127.0.0.1:5672/%%2f\n' "$amqp" | keep amqp_url_host
printf 'http://admin:%s@127.0.0.1:8774\n' "$admin" | keep image_url
printf 'default_user = whimbrel\ndefault_pass = %s\nloopback_users = none\n' "$amqp" | keep rabbitmq.conf
# bcrypt, from the C library.
printf '%s' "$admin" | perl -e '
    my @letters = (".", "/", "A".."Z", "a".."z", "0".."9");
    open my $random, "<", "/dev/urandom" or die; read $random, my $bytes, 22;
    my $salt = join "", map { $letters[ord($_) % 64] } split //, $bytes;
    my $hash = crypt(<STDIN>, "\$2b\$10\$$salt");
    $hash =~ /^\$2b\$/ or die "this C library has no bcrypt; write api_users with htpasswd -B\n";
    print "admin:$hash\n";' | keep api_users
printf '[admin]\nproject = "default"\nroles = ["admin"]\n' | keep api_roles
