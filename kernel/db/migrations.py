"""Apply migrations: linear ``.sql`` files per plugin, each once, by one process at a time.

A file and the record that it was applied are one transaction, so a killed process leaves either both or neither.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import psycopg
import sqlparse
from psycopg import Connection, sql

from kernel.db.failures import READ_ONLY, describe
from kernel.db.privileges import explain, find_missing_to_migrate, find_missing_to_run
from kernel.db.queries import load_queries
from kernel.errors import BootError

_FILE_NAME = re.compile(r"^[0-9]{4}_[a-z0-9_]+\.sql$")
_OUTSIDE_TRANSACTION = re.compile(r"^-- transactional: false[ \t]*$", re.MULTILINE)
_CREATE_SCHEMA = re.compile(r"\bCREATE SCHEMA (?:IF NOT EXISTS )?\"?([a-z_][a-z0-9_]*)", re.IGNORECASE)
_EARLIER_CHECKSUM = re.compile(r"^-- earlier-checksum: ([0-9a-f]{64})[ \t]*$", re.MULTILINE)
_QUERIES = load_queries(__package__)
_LOCK_KEY = int.from_bytes(hashlib.sha256(b"tiercel.migrations").digest()[:8], "big", signed=True)
_LOCK_POLL_S = 0.1
_SESSION_END_S = 2.0
KERNEL, KERNEL_SCHEMA = "kernel", "tiercel"
_KERNEL_MIGRATIONS = Path(__file__).parent.parent / "migrations"


class Migration(msgspec.Struct, frozen=True):
    """One migration file.

    Args:
        owner: Name of the plugin.
        path: The file, ``NNNN_what.sql``. A line ``-- transactional: false`` before the first statement runs it outside
            a transaction, statement by statement. Such a file must be safe to run again: IF NOT EXISTS. A file that was
            edited for new databases lists the checksum of each earlier text in a line
            ``-- earlier-checksum: <sha256>``. Databases in which an earlier text ran keep what it made; a later file
            must upgrade them.
    """

    owner: str
    path: Path

    @property
    def id(self) -> str:
        """The identifier that is recorded, ``owner/NNNN_what``; unique over all plugins."""
        return f"{self.owner}/{self.path.stem}"

    @property
    def text(self) -> LiteralString:
        """The SQL, which ships with the code; hence the type."""
        return self.path.read_text(encoding="utf-8")

    @property
    def sha256(self) -> str:
        """SHA-256 checksum of the file, hexadecimal."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def is_transactional(self) -> bool:
        """Whether the file runs inside a transaction."""
        return not _OUTSIDE_TRANSACTION.search(self.text)

    @property
    def schemas(self) -> frozenset[str]:
        """Names of the schemas that the file creates."""
        # Finding the comments of all files takes a fifth of a second.
        if "schema" not in self.text.lower():
            return frozenset()
        return frozenset(_CREATE_SCHEMA.findall(sqlparse.format(self.text, strip_comments=True)))

    @property
    def valid_checksums(self) -> frozenset[str]:
        """Checksums under which the migration may be recorded: that of the file, and those of its earlier texts."""
        return frozenset({self.sha256, *_EARLIER_CHECKSUM.findall(self.text)})


class MigrationError(BootError):
    """A migration failed, or was edited after it was applied. Its owner is to blame."""


def schemas_of(migrations: Iterable[Migration]) -> tuple[str, ...]:
    """List the schemas that migrations create, that of the kernel first."""
    return tuple(dict.fromkeys([KERNEL_SCHEMA, *(name for each in migrations for name in sorted(each.schemas))]))


def find_migrations(owner: str, directory: Path) -> tuple[Migration, ...]:
    """List the migrations in a directory, in order.

    Raises:
        MigrationError: A file is not named ``NNNN_what.sql``, or two have one number.
    """
    found: list[Migration] = []
    for path in sorted(directory.glob("*.sql")):
        if not _FILE_NAME.match(path.name):
            raise MigrationError(f"{owner}: {path.name} is not named NNNN_what.sql")
        if found and found[-1].path.name[:4] == path.name[:4]:
            raise MigrationError(f"{owner}: {found[-1].path.name} and {path.name} have the same number")
        found.append(Migration(owner, path))
    return tuple(found)


def kernel_migrations() -> tuple[Migration, ...]:
    """List the migrations of the kernel's own tables: datasets and jobs."""
    return find_migrations(KERNEL, _KERNEL_MIGRATIONS)


def pending_migrations(conninfo: str, migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    """Return the migrations that ``migrate`` would apply, without changing anything.

    Raises:
        MigrationError: An applied migration was edited.
        BootError: The database cannot be queried.
    """
    with _connect(conninfo) as connection:
        return _read_pending(connection, migrations)


class MissingPrivileges(msgspec.Struct, frozen=True):
    """What a role lacks, each with the statement that gives it.

    Args:
        to_migrate: To create and change the objects of the service: for migrations, and for partitions of tables.
        to_run: To read and write what is there.
    """

    to_migrate: tuple[str, ...]
    to_run: tuple[str, ...]


def find_missing_privileges(conninfo: str, migrations: Sequence[Migration]) -> MissingPrivileges:
    """Find out what the role lacks, without changing anything.

    Args:
        conninfo: Connection string with that role.
        migrations: All migrations of the service.

    Raises:
        BootError: The database cannot be queried.
    """
    schemas = schemas_of(migrations)
    with _connect(conninfo) as connection:
        ((read_only,),) = connection.execute(_QUERIES["show_read_only"])
        return MissingPrivileges(
            (*([READ_ONLY.detail] if read_only == "on" else []), *find_missing_to_migrate(connection, schemas)),
            find_missing_to_run(connection, schemas),
        )


def describe_timescaledb(conninfo: str) -> str | None:
    """Return what to do where the server has TimescaleDB, but the database has not; None elsewhere.

    Raises:
        BootError: The database cannot be queried.
    """
    with _connect(conninfo) as connection:
        row = connection.execute(_QUERIES["find_timescaledb"]).fetchone()
    if row is None:
        return None
    is_loaded, exists, may_create, is_migrated = row
    if exists or not is_loaded or (may_create and not is_migrated):
        return None
    if is_migrated:
        why = "" if may_create else ", as the role may not create it"
        return f"TimescaleDB is not used: the tables were made without it{why}; only a new database can use it"
    return (
        "TimescaleDB is available, but the role may not create it; to use it, before the first start, as a superuser"
        " in this database: CREATE EXTENSION timescaledb;"
    )


def remove(conninfo: str, migrations: Sequence[Migration]) -> tuple[str, ...]:
    """Drop the schemas that applied migrations created, with everything in them, in one transaction.

    Args:
        conninfo: Connection string with the role that owns them.
        migrations: All migrations of the service.

    Returns:
        The names of the schemas.

    Raises:
        BootError: A process of the service is connected, or the schemas cannot be dropped.
    """
    created = [(KERNEL_SCHEMA, KERNEL), *((name, each.owner) for each in migrations for name in each.schemas)]
    with _connect(conninfo) as connection:
        if not _has_migration_table(connection):
            return ()
        _ensure_unused(connection)
        given = {"schemas": [schema for schema, _ in created], "owners": [owner for _, owner in created]}
        schemas = tuple(row[0] for row in connection.execute(_QUERIES["list_own_schemas"], given))
        names = sql.SQL(", ").join(map(sql.Identifier, schemas))
        if schemas:
            connection.execute(sql.SQL(_QUERIES["drop_schemas"]).format(schemas=names))
        return schemas


def _ensure_unused(connection: Connection[Any]) -> None:
    # A session ends a moment after its client did.
    deadline = time.monotonic() + _SESSION_END_S
    while True:
        ((sessions,),) = connection.execute(_QUERIES["count_own_sessions"])
        if not sessions:
            return
        if time.monotonic() >= deadline:
            raise BootError(f"{sessions} sessions of the service use the database: stop the service first")
        time.sleep(_LOCK_POLL_S)


def migrate(conninfo: str, migrations: Sequence[Migration], *, timeout_s: float = 300) -> tuple[Migration, ...]:
    """Apply pending migrations. Any number of processes may call this at once.

    Args:
        conninfo: Connection string with a role that may create the schemas, or owns them.
        migrations: In order.
        timeout_s: How long to wait for another process that migrates.

    Returns:
        The migrations that this call applied.

    Raises:
        MigrationError: A file failed (earlier ones stay applied), or was edited after it was applied; or the role lacks
            a privilege.
        BootError: The database cannot be changed, or another process held the lock for too long.
    """
    with _connect(conninfo) as connection:
        # Most starts have nothing to apply: those take no lock, write nothing, and work on a read-only server.
        if not _read_pending(connection, migrations):
            return ()
        with _migration_lock(connection, timeout_s):
            return _apply_pending(connection, migrations)


def _apply_pending(connection: Connection[Any], migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    pending = _read_pending(connection, migrations)
    if missing := find_missing_to_migrate(connection, schemas_of(migrations)) if pending else ():
        raise MigrationError(f"{pending[0].id} cannot be applied: {' '.join(missing)}")
    if not _has_migration_table(connection):
        # Never later: the tables that exist would not become hypertables.
        connection.execute(_QUERIES["create_extension_timescaledb"])
    for name in ("create_kernel_schema", "create_migration_table"):
        connection.execute(_QUERIES[name])
    for migration in pending:
        try:
            _apply(connection, migration)
        except psycopg.errors.InsufficientPrivilege as ex:
            raise MigrationError(f"{migration.id}: {explain(connection, ex)}") from ex
        except psycopg.Error as ex:
            raise MigrationError(f"{migration.id}: {str(ex).strip()}") from ex
    return pending


def _apply(connection: Connection[Any], migration: Migration) -> None:
    record = {"id": migration.id, "sha256": migration.sha256}
    if migration.is_transactional:
        with connection.transaction():
            connection.execute(migration.text)
            connection.execute(_QUERIES["insert_migration"], record)
        return
    # One by one: several statements in one message are one transaction.
    for statement in sqlparse.split(migration.text):
        if sqlparse.format(statement, strip_comments=True).strip(" ;\n"):
            connection.execute(statement)
    connection.execute(_QUERIES["insert_migration"], record)


@contextmanager
def _connect(conninfo: str) -> Iterator[Connection[Any]]:
    try:
        # Nothing is prepared: each statement runs a few times, and a proxy may give the session to the next connection.
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(_QUERIES["enable_connection_check"])
            try:
                yield connection
            except psycopg.errors.InsufficientPrivilege as ex:
                raise BootError(f"the database cannot be migrated: {explain(connection, ex)}") from ex
    except psycopg.Error as ex:
        raise BootError(f"the database cannot be migrated: {describe(ex)}") from ex


def _read_pending(connection: Connection[Any], migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    return _select_pending(migrations, _read_applied(connection) if _has_migration_table(connection) else {})


def _has_migration_table(connection: Connection[Any]) -> bool:
    row = connection.execute(_QUERIES["has_migration_table"]).fetchone()
    return row is not None and bool(row[0])


def _read_applied(connection: Connection[Any]) -> dict[str, str]:
    return dict(connection.execute(_QUERIES["list_migrations"]).fetchall())


def _select_pending(migrations: Sequence[Migration], applied: dict[str, str]) -> tuple[Migration, ...]:
    for migration in migrations:
        if applied.get(migration.id, migration.sha256) not in migration.valid_checksums:
            raise MigrationError(f"{migration.id} was edited after it was applied; add a new file instead")
    return tuple(migration for migration in migrations if migration.id not in applied)


@contextmanager
def _migration_lock(connection: Connection[Any], timeout_s: float) -> Iterator[None]:
    # Polled: a session that waits in SELECT pg_advisory_lock() holds a snapshot, for which CREATE INDEX CONCURRENTLY in
    # the session with the lock would wait: a deadlock. The lock is released with the connection, however the process
    # dies.
    deadline = time.monotonic() + timeout_s
    while True:
        row = connection.execute(_QUERIES["try_migration_lock"], {"key": _LOCK_KEY}).fetchone()
        if row and row[0]:
            break
        if time.monotonic() >= deadline:
            raise BootError(f"another process has been migrating for {timeout_s:g} s")
        time.sleep(_LOCK_POLL_S)
    yield
