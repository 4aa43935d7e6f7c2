# The entry point of the image that stands in for that of the database: tests/deploy/engine.py.
set -eu
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
    chown postgres /tmp/password
    as_postgres initdb -D "$PGDATA" --username="$POSTGRES_USER" --pwfile=/tmp/password \
        --encoding=UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256
    rm /tmp/password
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    if [ -e /opt/postgresql/lib/timescaledb.so ]; then
        echo "shared_preload_libraries = 'timescaledb'" >> "$PGDATA/postgresql.conf"
    fi
    # Not over TCP, which is what the health check asks.
    as_postgres pg_ctl -D "$PGDATA" -w -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start
    as_postgres psql --host=/tmp --username="$POSTGRES_USER" --dbname=postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
    if [ -e /opt/postgresql/lib/timescaledb.so ]; then
        as_postgres psql --host=/tmp --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" -c "CREATE EXTENSION timescaledb"
    fi
    as_postgres pg_ctl -D "$PGDATA" -w -m fast stop
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$@" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
