#!/bin/sh
# As the official image starts: makes the database at the first start, with the password from a file.
set -eu
data=/var/lib/postgresql/data
as="setpriv --reuid=postgres --regid=postgres --init-groups"
chown postgres:postgres "$data"
chmod 700 "$data"
if [ ! -s "$data/PG_VERSION" ]; then
    password=$(mktemp)
    cp "$POSTGRES_PASSWORD_FILE" "$password"
    chown postgres "$password"
    $as initdb -D "$data" -U "$POSTGRES_USER" --pwfile="$password" --auth=scram-sha-256 -E UTF8 --locale=C.UTF-8 >/dev/null
    rm "$password"
    printf 'host all all all scram-sha-256\n' >>"$data/pg_hba.conf"
    # Not to be reached by others until the database is there.
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    export PGPASSWORD
    $as pg_ctl -D "$data" -w -s -o "-c listen_addresses= -k /tmp" start
    createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB" || true
    $as pg_ctl -D "$data" -w -s -m fast stop
fi
exec $as postgres -D "$data" -k /tmp -c listen_addresses='*'
