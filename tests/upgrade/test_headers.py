"""Migrations since the frozen release: those before stay as they were, and the headers of new ones are true."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from packaging.version import Version

from kernel.app import Tiercel
from kernel.db.migrations import Migration, find_migrations, migrate
from kernel.testing import make_configuration
from tests.contract.tree import ROOT
from tests.upgrade import next_release
from tests.upgrade.freeze import FOLDER

pytestmark = pytest.mark.xdist_group("upgrade")

# Locks that keep readers or writers waiting, on tables that were there before; that on a partition is one on its table.
LOCKS = """
SELECT DISTINCT upper(regexp_replace(replace(mode, 'Lock', ''), '(?<=[a-z])(?=[A-Z])', ' ', 'g')),
       (SELECT nspname || '.' || root.relname FROM pg_class AS root JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE root.oid = coalesce(pg_partition_root(relation), relation))
FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relkind IN ('r', 'p') AND relation = ANY (%s)
  AND relnamespace <> 'pg_catalog'::regnamespace
  AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""
(RELEASE,) = (Version(path.name.split("-")[1]) for path in FOLDER.glob("*.whl"))


@pytest.fixture(scope="module")
def migrations() -> Sequence[Migration]:
    """The migrations of the source tree, in the order in which they are applied."""
    return Tiercel(make_configuration(log={"level": "error"})).migrations()


def released(migration: Migration, frozen: Path) -> Path:
    """Return where a migration is in the frozen release, if it is there."""
    return frozen / migration.path.relative_to(ROOT)


def test_a_released_migration_is_never_edited_in_secret(migrations: Sequence[Migration], frozen: Path) -> None:
    old = [migration for migration in migrations if released(migration, frozen).exists()]

    assert len(old) > 20
    assert [
        migration.id
        for migration in old
        if hashlib.sha256(released(migration, frozen).read_bytes()).hexdigest() not in migration.valid_checksums
    ] == [], "databases of the release before would be refused: list the earlier checksum"


def test_headers_of_new_migrations_are_there_and_true(
    migrations: Sequence[Migration], frozen: Path, empty_database: str
) -> None:
    old = [Migration(each.owner, released(each, frozen)) for each in migrations if released(each, frozen).exists()]
    new = [each for each in migrations if not released(each, frozen).exists()]
    new += find_migrations("next_release", Path(next_release.__path__[0]) / "migrations")
    migrate(empty_database, old)
    wrong = []

    with psycopg.connect(empty_database, autocommit=True) as connection:
        for migration in new:
            header = migration.header
            if header is None:
                wrong.append(f"{migration.id} has no header")
                continue
            if header.rollback.startswith("impossible") != (Version(header.compatible) > RELEASE):
                wrong.append(f"{migration.id}: compatible {header.compatible}, but rollback {header.rollback}")
            if not migration.is_transactional:
                migrate(empty_database, [migration])
                continue
            ((before,),) = connection.execute("SELECT array_agg(oid) FROM pg_class")
            with connection.transaction():
                connection.execute(migration.text)
                taken = set(connection.execute(LOCKS, [before]).fetchall())
            stated = {(lock.mode, lock.table) for lock in header.locks}
            if stated != taken:
                wrong.append(f"{migration.id}: states {sorted(stated)}, takes {sorted(taken)}")

    assert wrong == []
