"""Migrations: each file is applied once, atomically, by one of many processes; failures of plugins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kernel import Route
from kernel.app import Tiercel
from kernel.db.migrations import (
    Header,
    Lock,
    Migration,
    MigrationError,
    find_migrations,
    migrate,
    newer_migrations,
    pending_migrations,
)
from kernel.errors import BootError, PluginError
from kernel.testing import make_configuration
from tests.conftest import Serve
from tests.kernel.fakes import MakePlugin
from tests.processes import eventually, python_environment

pytestmark = pytest.mark.slow

MIGRATE = """
import sys
from pathlib import Path
from kernel.db.migrations import find_migrations, migrate
print(*(each.id for each in migrate(sys.argv[1], find_migrations("demo", Path(sys.argv[2])))), sep="\\n")
"""
# Pauses as long as the connection string says.
PAUSE = "SELECT pg_sleep(coalesce(current_setting('test.pause_s', true), '0')::float);"


def write(directory: Path, **files: str) -> tuple[Migration, ...]:
    """Write migrations, ``m0001_first=...`` as 0001_first.sql, and find them."""
    for name, text in files.items():
        (directory / f"{name[1:]}.sql").write_text(text, encoding="utf-8")
    return find_migrations("demo", directory)


def start(conninfo: str, directory: Path) -> subprocess.Popen[str]:
    """Start a process that migrates."""
    command = [sys.executable, "-c", MIGRATE, conninfo, str(directory)]
    return subprocess.Popen(command, env=python_environment(), stdout=subprocess.PIPE, text=True)


def kill_in_the_pause(conninfo: str, directory: Path) -> None:
    """Start a process that migrates, and kill it while it sleeps in the middle of a file."""
    process = start(make_conninfo(conninfo, options="-c test.pause_s=60"), directory)
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    assert eventually(lambda: ask(conninfo, sleeping) == [(1,)], 30)
    process.kill()
    process.communicate()


def ask(conninfo: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def exists(conninfo: str, name: str) -> bool:
    return ask(conninfo, f"SELECT to_regclass('{name}') IS NOT NULL") == [(True,)]


def ids(migrations: Sequence[Migration]) -> list[str]:
    return [migration.id for migration in migrations]


def test_files_are_applied_in_order_and_once(empty_database: str, tmp_path: Path) -> None:
    files = write(tmp_path, m0002_fill="INSERT INTO a VALUES (1);", m0001_make="CREATE TABLE a (n int);")

    assert ids(migrate(empty_database, files)) == ["demo/0001_make", "demo/0002_fill"]
    assert migrate(empty_database, files) == ()
    assert ask(empty_database, "SELECT n FROM a") == [(1,)]


@pytest.mark.slow
def test_ten_concurrent_processes_apply_each_file_once(empty_database: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        m0001_make="CREATE TABLE a (n int); SELECT pg_sleep(0.2);",
        m0002_fill="INSERT INTO a VALUES (1);",
        m0003_index="-- transactional: false\nCREATE INDEX CONCURRENTLY a_n ON a (n);",
    )

    processes = [start(empty_database, tmp_path) for _ in range(10)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]

    assert [process.returncode for process in processes] == [0] * 10
    assert sorted(chain.from_iterable(outputs)) == ["demo/0001_make", "demo/0002_fill", "demo/0003_index"]
    assert ask(empty_database, "SELECT n FROM a") == [(1,)]


def test_a_file_that_was_killed_halfway_is_rolled_back_and_applied_by_the_next_run(
    empty_database: str, tmp_path: Path
) -> None:
    files = write(tmp_path, m0001_halves=f"CREATE TABLE a (); {PAUSE} CREATE TABLE b ();")

    kill_in_the_pause(empty_database, tmp_path)

    assert eventually(lambda: ask(empty_database, "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == [])
    assert not exists(empty_database, "a")
    assert ids(migrate(empty_database, files, timeout_s=10)) == ["demo/0001_halves"]
    assert exists(empty_database, "b")


def test_a_file_outside_a_transaction_that_was_killed_is_run_again(empty_database: str, tmp_path: Path) -> None:
    files = write(
        tmp_path,
        m0001_make="CREATE TABLE a (n int);",
        m0002_index=f"-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_n ON a (n);\n{PAUSE}",
    )

    kill_in_the_pause(empty_database, tmp_path)

    assert exists(empty_database, "a_n"), "each statement is committed separately"
    assert ids(pending_migrations(empty_database, files)) == ["demo/0002_index"]
    assert ids(migrate(empty_database, files, timeout_s=10)) == ["demo/0002_index"]


def test_statements_outside_a_transaction_may_have_bodies_and_comments(empty_database: str, tmp_path: Path) -> None:
    text = """-- transactional: false
-- A comment; with a semicolon.
CREATE FUNCTION answer() RETURNS int LANGUAGE plpgsql AS $body$
BEGIN
    -- Not the end; nor is this: $$
    IF true THEN RETURN 42; END IF;
    RETURN 0;
END;
$body$;
/* Another; one. */
CREATE TABLE a (word text DEFAULT 'a;b');
CREATE INDEX CONCURRENTLY a_word ON a (word);
DO $$ BEGIN INSERT INTO a DEFAULT VALUES; END $$;
-- The last; word.
"""

    migrate(empty_database, write(tmp_path, m0001_bodies=text))

    assert ask(empty_database, "SELECT answer(), word FROM a") == [(42, "a;b")]


def test_a_file_that_was_edited_for_new_databases_may_list_its_earlier_checksums(
    empty_database: str, tmp_path: Path
) -> None:
    first = write(tmp_path, m0001_make="CREATE TABLE a ();")
    migrate(empty_database, first)
    earlier = f"-- earlier-checksum: {'0' * 64}\n-- earlier-checksum: {first[0].sha256}\n"

    edited = write(tmp_path, m0001_make=f"{earlier}CREATE TABLE a (n int);")

    assert pending_migrations(empty_database, edited) == migrate(empty_database, edited) == ()
    assert ask(empty_database, "SELECT * FROM a") == []


def test_a_file_edited_after_it_was_applied_is_rejected_by_name(empty_database: str, tmp_path: Path) -> None:
    migrate(empty_database, write(tmp_path, m0001_make="CREATE TABLE a ();"))
    edited = write(tmp_path, m0001_make="CREATE TABLE a (n int);")

    for check in (pending_migrations, migrate):
        with pytest.raises(MigrationError, match="demo/0001_make was edited"):
            check(empty_database, edited)


def test_a_file_that_fails_is_named_and_leaves_the_earlier_ones_applied(empty_database: str, tmp_path: Path) -> None:
    files = write(tmp_path, m0001_make="CREATE TABLE a ();", m0002_bad="CREATE TABLE b (); SELEKT 1;")

    with pytest.raises(MigrationError, match=r"demo/0002_bad: .*SELEKT"):
        migrate(empty_database, files)

    assert ids(pending_migrations(empty_database, files)) == ["demo/0002_bad"]
    assert exists(empty_database, "a")
    assert not exists(empty_database, "b")


@pytest.mark.parametrize("name", ["1_short.sql", "0001-dash.sql", "0001_Capital.sql", "make.sql"])
def test_an_invalid_file_name_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(MigrationError, match=f"demo: {name} is not named"):
        find_migrations("demo", tmp_path)


def test_two_files_with_the_same_number_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=r"0001_a\.sql and 0001_b\.sql have the same number"):
        write(tmp_path, m0001_a="", m0001_b="")


def test_pending_migrations_are_listed_without_changing_anything(empty_database: str, tmp_path: Path) -> None:
    files = write(tmp_path, m0001_make="CREATE TABLE a ();", m0002_more="CREATE TABLE b ();")

    assert ids(pending_migrations(empty_database, files)) == ["demo/0001_make", "demo/0002_more"]
    assert ask(empty_database, "SELECT nspname FROM pg_namespace WHERE nspname = 'tiercel'") == []

    migrate(empty_database, files[:1])
    assert ids(pending_migrations(empty_database, files)) == ["demo/0002_more"]


def test_the_wait_for_another_process_has_a_timeout(empty_database: str, tmp_path: Path) -> None:
    files = write(tmp_path, m0001_slow="SELECT pg_sleep(60);")
    holder = start(empty_database, tmp_path)
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    try:
        assert eventually(lambda: ask(empty_database, held) == [(1,)], 30)

        with pytest.raises(BootError, match=r"another process has been migrating for 0\.3 s"):
            migrate(empty_database, files, timeout_s=0.3)
    finally:
        holder.kill()
        holder.communicate()


def test_a_read_only_database_is_an_error_only_if_something_is_pending(empty_database: str, tmp_path: Path) -> None:
    first = write(tmp_path, m0001_make="CREATE TABLE a ();")
    migrate(empty_database, first)
    read_only = make_conninfo(empty_database, options="-c default_transaction_read_only=on")

    assert migrate(read_only, first) == ()
    with pytest.raises(BootError, match=r"cannot be migrated: .*read-only"):
        migrate(read_only, write(tmp_path, m0002_more="CREATE TABLE b ();"))


# --- earlier and newer versions ---------------------------------------------------------------------------------------


HEADER = """-- compatible: 0.2.0
-- rollback: loses the colours
-- locks: ACCESS EXCLUSIVE on demo.a, brief
-- locks: SHARE on demo.b, scan
"""


def test_a_header_says_what_a_migration_means_for_earlier_versions(tmp_path: Path) -> None:
    stated, silent = write(tmp_path, m0001_stated=f"-- About a.\n{HEADER}SELECT 1;", m0002_silent="SELECT 1;")

    locks = (Lock("ACCESS EXCLUSIVE", "demo.a", "brief"), Lock("SHARE", "demo.b", "scan"))
    assert stated.header == Header("0.2.0", "loses the colours", locks)
    assert list(map(str, locks)) == [
        "reads and writes of demo.a wait for a moment (ACCESS EXCLUSIVE)",
        "writes of demo.b wait while it is read (SHARE)",
    ]
    assert silent.header is None


@pytest.mark.parametrize(
    ("line", "replacement"),
    [
        ("-- compatible: 0.2.0\n", ""),
        ("-- compatible: 0.2.0", "-- compatible: none"),
        ("-- compatible: 0.2.0", "-- compatible: 0.2.0\n-- compatible: 0.3.0"),
        ("-- rollback: loses the colours\n", ""),
        ("loses the colours", "loses"),
        ("loses the colours", "maybe"),
        ("ACCESS EXCLUSIVE on demo.a, brief", "none"),
        ("ACCESS EXCLUSIVE on demo.a, brief", "ACCESS EXCLUSIVE on a, brief"),
        ("ACCESS EXCLUSIVE on demo.a, brief", "ROW SHARE on demo.a, brief"),
        ("ACCESS EXCLUSIVE on demo.a, brief", "ACCESS EXCLUSIVE on demo.a, soon"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, line: str, replacement: str) -> None:
    assert line in HEADER
    (wrong,) = write(tmp_path, m0001_wrong=HEADER.replace(line, replacement))

    with pytest.raises(MigrationError, match="demo/0001_wrong: "):
        _ = wrong.header


def test_a_migration_with_a_wrong_header_is_not_applied(empty_database: str, tmp_path: Path) -> None:
    files = write(tmp_path, m0001_wrong="-- locks: none\nCREATE TABLE a ();")

    with pytest.raises(MigrationError, match="demo/0001_wrong: a header has one line 'compatible: VERSION'"):
        migrate(empty_database, files)

    assert not exists(empty_database, "a")


def test_a_version_that_a_newer_one_leaves_behind_refuses_the_database(empty_database: str, tmp_path: Path) -> None:
    (tmp_path / "0001_make.sql").write_text("CREATE TABLE a ();")
    (earlier,) = find_migrations("demo", tmp_path, "0.1.9")
    (tmp_path / "0002_stated.sql").write_text("-- compatible: 0.2.0\n-- rollback: impossible x\n-- locks: none\n")
    migrate(empty_database, find_migrations("demo", tmp_path, "0.3.0"))

    for check in (migrate, pending_migrations):
        with pytest.raises(
            MigrationError, match=r"demo/0002_stated, .*needs version 0\.2\.0 or later, and this is 0\.1\.9"
        ):
            check(empty_database, [earlier])
    for version in ("0.2.0.dev3", "0.2.0rc1", "0.2.0", "0.2.1", "1.0", None):
        served = [Migration("demo", earlier.path, version)]
        assert migrate(empty_database, served) == ()
        assert newer_migrations(empty_database, served) == ("demo/0002_stated",)
    other = [Migration("other", earlier.path, "0.0.1")]
    assert newer_migrations(empty_database, other) == (), "each plugin has versions of its own"


def test_a_database_whose_record_is_of_version_0_1_0_is_read_and_upgraded(empty_database: str, tmp_path: Path) -> None:
    first = write(tmp_path, m0001_make="CREATE TABLE a ();")
    migrate(empty_database, first)
    with psycopg.connect(empty_database) as connection:
        connection.execute("ALTER TABLE tiercel.migration DROP COLUMN compatible")
    assert migrate(empty_database, first) == ()

    migrate(empty_database, write(tmp_path, m0002_more=f"{HEADER}CREATE TABLE b ();"))

    assert ask(empty_database, "SELECT id, compatible FROM tiercel.migration ORDER BY id") == [
        ("demo/0001_make", None),
        ("demo/0002_more", "0.2.0"),
    ]


def test_a_migration_that_waits_for_a_table_keeps_nobody_else_waiting_for_long(
    empty_database: str, tmp_path: Path
) -> None:
    migrate(empty_database, write(tmp_path, m0001_make="CREATE TABLE a ();"))
    files = write(tmp_path, m0002_more="ALTER TABLE a ADD COLUMN n int;")
    waiting = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(empty_database) as reader:
        reader.execute("SELECT FROM a")  # and stays in its transaction
        migrating = pool.submit(migrate, empty_database, files, timeout_s=60)
        assert eventually(lambda: ask(empty_database, waiting) == [(1,)])

        # Behind the migration: answered although the first reader has not ended.
        assert ask(empty_database, "SELECT FROM a") == []

        assert not migrating.done()
        reader.rollback()
        assert ids(migrating.result()) == ["demo/0002_more"]
    last = write(tmp_path, m0003_last="ALTER TABLE a ADD COLUMN m int;")
    with psycopg.connect(empty_database) as reader:
        reader.execute("SELECT FROM a")
        with pytest.raises(MigrationError, match=r"demo/0003_last: .*lock timeout"):
            migrate(empty_database, last, timeout_s=0)


# --- migrations of plugins --------------------------------------------------------------------------------------------


BROKEN = "0001_broken.sql"
AddPlugin = Callable[[str], str]


@pytest.fixture
def add_plugin(make_plugin: MakePlugin, tmp_path: Path) -> AddPlugin:
    """Make a plugin with one route and one migration of the given text."""

    def add(text: str) -> str:
        folder = tmp_path / "migrations"
        folder.mkdir()
        (folder / BROKEN).write_text(text, encoding="utf-8")
        route = Route(path="/fragile/", handler=lambda: "here", policy="public")
        name = make_plugin("fragile", register_routes=lambda services: [route])
        sys.modules[name].__path__ = [str(tmp_path)]
        return name

    return add


def test_an_optional_plugin_whose_migration_fails_is_quarantined(serve: Serve, add_plugin: AddPlugin) -> None:
    client = serve(plugins=["system", "observability", add_plugin("SELEKT 1;")])

    assert client.get("/api/requests/").status == 200
    refused = client.get("/fragile/")
    assert refused.status == 503
    assert "fragile/0001_broken" in refused.json()["detail"]
    ready = client.get("/readyz?verbose")
    assert (ready.status, ready.json()["status"]) == (200, "degraded")
    assert "SELEKT" in ready.content.decode()


def test_a_required_plugin_whose_migration_fails_stops_the_boot(empty_database: str, add_plugin: AddPlugin) -> None:
    name = add_plugin("SELEKT 1;")
    service = Tiercel(make_configuration(plugins=[name], required=["fragile"], db={"url": empty_database}))

    with pytest.raises(PluginError, match=r"fragile\.migrations: fragile/0001_broken: .*SELEKT"):
        service.prepare()


def test_the_migrations_of_a_plugin_are_applied(serve: Serve, add_plugin: AddPlugin) -> None:
    client = serve(plugins=["system", add_plugin("CREATE SCHEMA fragile;")])

    assert client.get("/fragile/").json() == "here"
