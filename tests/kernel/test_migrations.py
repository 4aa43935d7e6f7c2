"""Migrations: each file is applied once, atomically, by one of many processes; failures of plugins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kernel import Route
from kernel.app import Tiercel
from kernel.db.migrations import Migration, MigrationError, find_migrations, migrate, pending_migrations
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
