"""Apply migrations: linear ``.sql`` files per plugin, each once, by one process at a time.

A file and the record that it was applied are one transaction, so a killed process leaves either both or neither.

While versions are changed, processes of two of them work on one database. A header in the comments of a file says which
earlier ones may, what going back to them takes, and which statements wait meanwhile::

    -- compatible: 0.1.0
    -- rollback: safe
    -- locks: ACCESS EXCLUSIVE on observability.ingest_ledger, brief

``docs/operations/upgrades.md`` describes it. The database records ``compatible``, so that a version that is older than
that refuses to run there.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import psycopg
import sqlparse
from packaging.version import Version
from psycopg import Connection, sql

from kernel.db.engine import is_pooled
from kernel.db.failures import READ_ONLY, describe
from kernel.db.privileges import explain, find_missing_to_migrate, find_missing_to_run
from kernel.db.queries import load_queries
from kernel.errors import BootError
from kernel.package_names import own_version

_FILE_NAME = re.compile(r"^[0-9]{4}_[a-z0-9_]+\.sql$")
_OUTSIDE_TRANSACTION = re.compile(r"^-- transactional: false[ \t]*$", re.MULTILINE)
_CREATE_SCHEMA = re.compile(r"\bCREATE SCHEMA (?:IF NOT EXISTS )?\"?([a-z_][a-z0-9_]*)", re.IGNORECASE)
_HEADER = re.compile(r"^-- (compatible|rollback|locks):[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_ROLLBACK = re.compile(r"safe|(?:loses|impossible) \S.*")
_LOCK = re.compile(
    r"(SHARE|SHARE ROW EXCLUSIVE|EXCLUSIVE|ACCESS EXCLUSIVE) on ([a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*),"
    r" (brief|scan|rewrite)"
)
_EARLIER_CHECKSUM = re.compile(r"^-- earlier-checksum: ([0-9a-f]{64})[ \t]*$", re.MULTILINE)
_QUERIES = load_queries(__package__)
_LOCK_KEY = int.from_bytes(hashlib.sha256(b"tiercel.migrations").digest()[:8], "big", signed=True)
_LOCK_POLL_S = 0.1
# Behind a statement that waits for a table, everybody else waits for it, too.
_LOCK_TIMEOUT_MS = 2_000
_LOCK_RETRY_S = 1.0
_SESSION_END_S = 2.0
KERNEL, KERNEL_SCHEMA = "kernel", "tiercel"
_KERNEL_MIGRATIONS = Path(__file__).parent.parent / "migrations"
# Checksum and oldest compatible version, if it is known, of each applied migration, by id.
_Applied = dict[str, tuple[str, str | None]]


class Lock(msgspec.Struct, frozen=True):
    """A lock on a table that a migration holds until it is committed, and for which other processes may have to wait.

    Args:
        mode: ``SHARE`` or a stronger mode of PostgreSQL, https://www.postgresql.org/docs/current/explicit-locking.html.
        table: The table, with its schema; not one that the migration creates.
        duration: ``brief``: however large the table is; ``scan``: while the table is read; ``rewrite``: while it is
            written anew.
    """

    mode: str
    table: str
    duration: str

    def __str__(self) -> str:
        waiting = "reads and writes" if self.mode == "ACCESS EXCLUSIVE" else "writes"
        until = {"brief": "for a moment", "scan": "while it is read", "rewrite": "while it is written anew"}
        return f"{waiting} of {self.table} wait {until[self.duration]} ({self.mode})"


class Header(msgspec.Struct, frozen=True):
    """What a migration says of processes of earlier versions.

    Args:
        compatible: The oldest version whose processes work on the database once the migration is applied: beside those
            of the new version, and after a roll back. That of the new version itself if no earlier one does.
        rollback: ``safe``; ``loses WHAT`` if going back gives something up; ``impossible WHY`` if only a backup helps.
        locks: What other processes wait for while it is applied.
    """

    compatible: str
    rollback: str
    locks: tuple[Lock, ...]


class Migration(msgspec.Struct, frozen=True):
    """One migration file.

    Args:
        owner: Name of the plugin.
        path: The file, ``NNNN_what.sql``. A line ``-- transactional: false`` before the first statement runs it outside
            a transaction, statement by statement. Such a file must be safe to run again: IF NOT EXISTS. A file that was
            edited for new databases lists the checksum of each earlier text in a line
            ``-- earlier-checksum: <sha256>``. Databases in which an earlier text ran keep what it made; a later file
            must upgrade them.
        version: The version of the distribution that the file belongs to; None if it is not known.
    """

    owner: str
    path: Path
    version: str | None = None

    @property
    def id(self) -> str:
        """The identifier that is recorded, ``owner/NNNN_what``; unique over all plugins."""
        return f"{self.owner}/{self.path.stem}"

    @property
    def release(self) -> Version | None:
        """The release that its version is, or will be: 0.2.0 for 0.2.0.dev3; None if the version is not known."""
        return None if self.version is None else Version(Version(self.version).base_version)

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
    def header(self) -> Header | None:
        """What the file says of earlier versions; None if it says nothing.

        Raises:
            MigrationError: The header is incomplete or wrong.
        """
        try:
            return _parse_header(self.text)
        except ValueError as ex:
            raise MigrationError(f"{self.id}: {ex}") from ex

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
    """A migration failed, was edited after it was applied, or makes way for no version as old as this one."""


def _parse_header(text: str) -> Header | None:
    """Parse the header of a migration; return None if it has none, and raise ValueError if it is wrong."""
    given: dict[str, list[str]] = {}
    for name, value in _HEADER.findall(text):
        given.setdefault(name, []).append(value)
    if not given:
        return None
    try:
        (compatible,), (rollback,), locks = given["compatible"], given["rollback"], given["locks"]
        Version(compatible)
    except (KeyError, ValueError) as ex:
        raise ValueError("a header has one line 'compatible: VERSION', one 'rollback: ...', and 'locks: ...'") from ex
    if not _ROLLBACK.fullmatch(rollback):
        raise ValueError(f"rollback: {rollback!r} is neither safe, nor 'loses WHAT', nor 'impossible WHY'")
    return Header(compatible, rollback, () if locks == ["none"] else tuple(map(_parse_lock, locks)))


def _parse_lock(text: str) -> Lock:
    found = _LOCK.fullmatch(text)
    if found is None:
        raise ValueError(f"locks: {text!r} is neither none nor 'MODE on SCHEMA.TABLE, brief|scan|rewrite'")
    return Lock(*found.groups())


def schemas_of(migrations: Iterable[Migration]) -> tuple[str, ...]:
    """List the schemas that migrations create, that of the kernel first."""
    return tuple(dict.fromkeys([KERNEL_SCHEMA, *(name for each in migrations for name in sorted(each.schemas))]))


def find_migrations(owner: str, directory: Path, version: str | None = None) -> tuple[Migration, ...]:
    """List the migrations in a directory, in order.

    Args:
        owner: Name of the plugin.
        directory: Where they are.
        version: The version of the distribution that they belong to, if it is known.

    Raises:
        MigrationError: A file is not named ``NNNN_what.sql``, or two have one number.
    """
    found: list[Migration] = []
    for path in sorted(directory.glob("*.sql")):
        if not _FILE_NAME.match(path.name):
            raise MigrationError(f"{owner}: {path.name} is not named NNNN_what.sql")
        if found and found[-1].path.name[:4] == path.name[:4]:
            raise MigrationError(f"{owner}: {found[-1].path.name} and {path.name} have the same number")
        found.append(Migration(owner, path, version))
    return tuple(found)


def kernel_migrations() -> tuple[Migration, ...]:
    """List the migrations of the kernel's own tables: datasets and jobs."""
    return find_migrations(KERNEL, _KERNEL_MIGRATIONS, own_version())


def pending_migrations(conninfo: str, migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    """Return the migrations that ``migrate`` would apply, without changing anything.

    Raises:
        MigrationError: An applied migration was edited, or a newer version applied one that this version cannot work
            with.
        BootError: The database cannot be queried.
    """
    with _connect(conninfo) as connection:
        return _read_pending(connection, migrations)


def newer_migrations(conninfo: str, migrations: Sequence[Migration]) -> tuple[str, ...]:
    """List the ids of migrations that were applied by newer versions of the owners of the given ones.

    Raises:
        BootError: The database cannot be queried.
    """
    with _connect(conninfo) as connection:
        return _find_newer(migrations, _read_applied(connection)) if _has_migration_table(connection) else ()


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
        MigrationError: A file failed (earlier ones stay applied), or was edited after it was applied; a newer version
            applied one that this version cannot work with; or the role lacks a privilege.
        BootError: The database cannot be changed, or another process held the lock for too long.
    """
    with _connect(conninfo) as connection:
        # Most starts have nothing to apply: those take no lock, write nothing, and work on a read-only server.
        if not _read_pending(connection, migrations):
            return ()
        with _migration_lock(conninfo, connection, timeout_s) as holder:
            return _apply_pending(connection, holder, migrations, timeout_s)


def _apply_pending(
    connection: Connection[Any], holder: Connection[Any], migrations: Sequence[Migration], timeout_s: float
) -> tuple[Migration, ...]:
    pending = _read_pending(connection, migrations)
    if missing := find_missing_to_migrate(connection, schemas_of(migrations)) if pending else ():
        raise MigrationError(f"{pending[0].id} cannot be applied: {' '.join(missing)}")
    if not _has_migration_table(connection):
        # Never later: the tables that exist would not become hypertables.
        connection.execute(_QUERIES["create_extension_timescaledb"])
    for name in ("create_kernel_schema", "create_migration_table", "add_compatible"):
        connection.execute(_QUERIES[name])
    for migration in pending:
        # Behind a pooler, the lock may be lost while this connection is not.
        holder.execute(_QUERIES["ping"])
        try:
            _apply(connection, migration, timeout_s)
        except psycopg.errors.InsufficientPrivilege as ex:
            raise MigrationError(f"{migration.id}: {explain(connection, ex)}") from ex
        except psycopg.Error as ex:
            raise MigrationError(f"{migration.id}: {str(ex).strip()}") from ex
    return pending


def _apply(connection: Connection[Any], migration: Migration, timeout_s: float) -> None:
    header = migration.header
    record = {
        "id": migration.id,
        "sha256": migration.sha256,
        "compatible": None if header is None else header.compatible,
    }
    if migration.is_transactional:
        _apply_in_transaction(connection, migration, record, timeout_s)
        return
    # One by one: several statements in one message are one transaction.
    for statement in sqlparse.split(migration.text):
        if sqlparse.format(statement, strip_comments=True).strip(" ;\n"):
            connection.execute(statement)
    connection.execute(_QUERIES["insert_migration"], record)


def _apply_in_transaction(
    connection: Connection[Any], migration: Migration, record: dict[str, Any], timeout_s: float
) -> None:
    """Apply a file at once, as soon as no long statement is in its way: until then, others go first again and again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with connection.transaction():
                connection.execute(_QUERIES["set_lock_timeout"], {"timeout_ms": _LOCK_TIMEOUT_MS})
                connection.execute(migration.text)
                connection.execute(_QUERIES["insert_migration"], record)
                return
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() >= deadline:
                raise
        # Who waited behind this statement goes first.
        time.sleep(_LOCK_RETRY_S)


@contextmanager
def _connect(conninfo: str) -> Iterator[Connection[Any]]:
    try:
        # Nothing is prepared: each statement runs a few times, and a proxy may give the session to the next connection.
        with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
            if not is_pooled(connection):
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


def _read_applied(connection: Connection[Any]) -> _Applied:
    return {id_: (sha256, compatible) for id_, sha256, compatible in connection.execute(_QUERIES["list_migrations"])}


def _select_pending(migrations: Sequence[Migration], applied: _Applied) -> tuple[Migration, ...]:
    for migration in migrations:
        if migration.id in applied and applied[migration.id][0] not in migration.valid_checksums:
            raise MigrationError(f"{migration.id} was edited after it was applied; add a new file instead")
    _ensure_compatible(migrations, applied)
    return tuple(migration for migration in migrations if migration.id not in applied)


def _find_newer(migrations: Sequence[Migration], applied: _Applied) -> tuple[str, ...]:
    owners = {migration.owner for migration in migrations}
    others = applied.keys() - {migration.id for migration in migrations}
    return tuple(sorted(id_ for id_ in others if _owner_of(id_) in owners))


def _ensure_compatible(migrations: Sequence[Migration], applied: _Applied) -> None:
    owned = {migration.owner: migration for migration in migrations}
    for id_ in _find_newer(migrations, applied):
        own, oldest = owned[_owner_of(id_)], applied[id_][1]
        if own.release is not None and oldest is not None and own.release < Version(oldest):
            raise MigrationError(
                f"{id_}, which a newer version applied, needs version {oldest} or later, and this is {own.version}:"
                " install a newer one again, or restore a backup from before"
            )


def _owner_of(id_: str) -> str:
    return id_.partition("/")[0]


@contextmanager
def _migration_lock(conninfo: str, connection: Connection[Any], timeout_s: float) -> Iterator[Connection[Any]]:
    """Wait for the lock; yield the connection that holds it, with which it is released, however the process dies."""
    if not is_pooled(connection):
        _wait_until(lambda: _try_lock(connection, "try_migration_lock"), timeout_s)
        yield connection
        return
    # A pooler would keep the session, and its lock, for others. A transaction has a session to itself, and ends with
    # its client.
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as holder:
        _wait_until(lambda: _try_lock_in_transaction(holder), timeout_s)
        yield holder


def _wait_until(is_locked: Callable[[], bool], timeout_s: float) -> None:
    # Polled: a session that waits in SELECT pg_advisory_lock() holds a snapshot, for which CREATE INDEX CONCURRENTLY in
    # the session with the lock would wait: a deadlock.
    deadline = time.monotonic() + timeout_s
    while not is_locked():
        if time.monotonic() >= deadline:
            raise BootError(f"another process has been migrating for {timeout_s:g} s")
        time.sleep(_LOCK_POLL_S)


def _try_lock(connection: Connection[Any], query: str) -> bool:
    # Without parameters: in a transaction, their portal would stay open, and hold a snapshot as well.
    row = connection.execute(sql.SQL(_QUERIES[query]).format(key=sql.Literal(_LOCK_KEY))).fetchone()
    return row is not None and bool(row[0])


def _try_lock_in_transaction(holder: Connection[Any]) -> bool:
    """Begin a transaction with the lock; without it none: who waits leaves the sessions of a pooler to others."""
    holder.execute(_QUERIES["begin"])
    holder.execute(_QUERIES["allow_idle_transaction"])
    if _try_lock(holder, "try_migration_lock_in_transaction"):
        return True
    holder.rollback()
    return False
