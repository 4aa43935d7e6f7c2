"""``tiercel db``: a shell, the connection string, removal of the data, and the upgrade of the embedded PostgreSQL."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel import Database
from kernel.backup.programs import client_environment
from kernel.cli.db import find_psql, make_url, run_statement
from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError
from kernel.settings import DatabaseSettings
from tests.commands import RunCommand, make_runner
from tests.conftest import FAST, memory_directory
from tests.processes import copy_home, eventually, postmaster, run_tiercel

DEBIAN = Path("/usr/lib/postgresql")
URL = "postgresql://bob:pass%40word@db.example:6432/shop?sslmode=require"


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands in this process, on a migrated database."""
    return make_runner(make_conninfo(database, password="secret-word"), tmp_path, monkeypatch, capsys)


@pytest.fixture
def embedded(initialised: Path, tmp_path: Path) -> Path:
    """A home with an embedded database that is not running."""
    return copy_home(initialised, tmp_path)


# --- shell ------------------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_shell_runs_psql_on_an_external_database(database: str, tmp_path: Path) -> None:
    given = ("--no-psqlrc", "-At", "-c", "SELECT count(*) FROM event", "-c", "SELECT count(*) > 0 FROM migration")

    ran = run_tiercel(tmp_path / ".tiercel", "db", "shell", *given, TIERCEL_DATABASE_URL=database)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\nt\n", "")


@pytest.mark.process
def test_shell_starts_and_stops_the_embedded_database_and_returns_the_exit_code_of_psql(embedded: Path) -> None:
    ran = run_tiercel(embedded, "db", "shell", "-X", "-At", "-c", "SELECT current_user", "-c", "SELECT nothing")

    assert (ran.returncode, ran.stdout) == (1, "tiercel\n")
    assert 'column "nothing" does not exist' in ran.stderr
    assert not (embedded / "postgres" / "postmaster.pid").exists()


def test_programs_of_postgresql_get_the_connection_in_variables_which_others_cannot_read(database: str) -> None:
    given = make_conninfo(database, password="secret-word", options="-c work_mem=5MB", connect_timeout=5)
    psql = find_psql()
    assert psql is not None

    query = "SELECT current_setting('search_path'), current_setting('work_mem'), current_setting('application_name')"
    ran = subprocess.run(
        [psql, "-X", "-At", "-c", query],
        env=dict(client_environment(given, ["tiercel", "club"])),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stdout == "tiercel,club|5MB|psql\n"
    assert client_environment(given, [])["PGPASSWORD"] == "secret-word"


def test_without_psql_a_statement_prints_a_table_or_what_it_did(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_statement(database, ["tiercel"], "SELECT 'a%' AS name, NULL AS nothing, current_schema() AS schema")
    run_statement(database, ["tiercel"], "DELETE FROM cache_report")

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "nothing", "schema"],
        ["a%", "tiercel"],
        ["DELETE", "0"],
    ]
    with pytest.raises(BootError, match='relation "nothing" does not exist'):
        run_statement(database, [], "SELECT FROM nothing")


# --- url --------------------------------------------------------------------------------------------------------------


def test_url_masks_the_password_unless_asked(tiercel: RunCommand) -> None:
    masked = tiercel("db", "url", TIERCEL_DATABASE_URL=URL).output
    shown = tiercel("db", "url", "--show-password", TIERCEL_DATABASE_URL=URL).output

    assert masked == "postgresql://bob:***@db.example:6432/shop?sslmode=require\n"
    assert shown == f"{URL}\n"


@pytest.mark.parametrize(
    "conninfo",
    [
        URL,
        "host=/var/run/my.sockets port=5433 user=tiercel dbname=tiercel",
        "host=one,two port=5432,5433 user='a b' password='x:y/z' dbname='my shop' target_session_attrs=read-write",
        "host=::1 user=tiercel dbname=tiercel options='-c work_mem=5MB'",
        "dbname=tiercel",
    ],
)
def test_a_url_names_the_same_database(conninfo: str) -> None:
    ours = Database(DatabaseSettings(), conninfo, embedded=False).conninfo

    assert conninfo_to_dict(make_url(ours, show_password=True)) == conninfo_to_dict(conninfo)


# --- reset ------------------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_reset_removes_the_embedded_data_once_it_is_confirmed(embedded: Path) -> None:
    asked = run_tiercel(embedded, "db", "reset")
    assert (asked.returncode, asked.stderr) == (1, "tiercel: nothing was removed: pass --yes to confirm\n")
    assert (embedded / "postgres" / "PG_VERSION").exists()

    ran = run_tiercel(embedded, "db", "reset", "--yes")
    assert (ran.returncode, ran.stdout) == (0, "The data was removed.\n")
    assert not (embedded / "postgres").exists()


@pytest.mark.process
def test_embedded_data_in_use_is_left_alone(embedded: Path) -> None:
    with EmbeddedServer(embedded, options=FAST) as server:
        ran = run_tiercel(embedded, "db", "reset", "--yes")

        assert ran.returncode == 1
        assert ran.stderr.endswith("is in use: stop the service first\n")
        with psycopg.connect(server.conninfo) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def schemas_in(database: str) -> set[str]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information'").fetchall()
    return {name for (name,) in rows}


def test_reset_of_an_external_database_drops_only_its_own_schemas_and_only_if_told_to(
    tiercel: RunCommand, database: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA others; CREATE TABLE others.kept AS SELECT 1")
    before = schemas_in(database)

    refused = tiercel("db", "reset", "--yes")
    assert refused.code == 1
    assert "pass --external" in refused.errors
    assert schemas_in(database) == before > {"tiercel", "observability", "others"}

    dropped = tiercel("db", "reset", "--yes", "--external")
    assert (dropped.code, dropped.output) == (0, "Dropped the schemas accounts, club, observability, tiercel, trace.\n")
    assert schemas_in(database) == {"others", "public"}
    assert tiercel("db", "reset", "--yes", "--external").output == "There is no data of the service.\n"
    assert tiercel("migrate").code == 0


def test_reset_leaves_a_schema_of_the_same_name_whose_migrations_were_never_applied(
    tiercel: RunCommand, database: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM tiercel.migration WHERE id LIKE 'club/%'")

    tiercel("db", "reset", "--yes", "--external")

    assert schemas_in(database) == {"club", "public"}


def test_reset_refuses_while_the_service_is_connected(tiercel: RunCommand, database: str) -> None:
    with psycopg.connect(database, application_name="tiercel"):
        ran = tiercel("db", "reset", "--yes", "--external")

    assert ran.code == 1
    assert ran.errors == "tiercel: 1 sessions of the service use the database: stop the service first\n"
    assert "tiercel" in schemas_in(database)


# --- upgrade ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home with data of an earlier PostgreSQL, whose server was killed, and the programs of that."""
    versions = sorted(int(path.parts[-3]) for path in DEBIAN.glob("*/bin/postgres"))
    if not versions or versions[0] >= 18:
        pytest.skip(f"no earlier PostgreSQL in {DEBIAN}")
    home = tmp_path_factory.mktemp("old") / ".tiercel"
    server = EmbeddedServer(home)
    server._bin = DEBIAN / str(versions[0]) / "bin"
    with server, psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
        running = postmaster(home)
        assert running is not None
        running.kill()
        assert eventually(lambda: postmaster(home) is None)
    return home, server._bin


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A directory in memory if there is room: an upgrade waits for the disk often."""
    with tempfile.TemporaryDirectory(prefix="tiercel-test-", dir=memory_directory()) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.process
def test_upgrade_converts_the_data_and_keeps_the_former(old_data: tuple[Path, Path], fast_path: Path) -> None:
    home = copy_home(old_data[0], fast_path)
    version = (home / "postgres" / "PG_VERSION").read_text().strip()
    refused = run_tiercel(home, "migrate")
    assert refused.returncode == 1
    assert f"was written by PostgreSQL {version}" in refused.stderr
    assert "run: tiercel upgrade" in refused.stderr

    upgraded = run_tiercel(home, "upgrade", "--old-binaries", str(old_data[1]))
    again = run_tiercel(home, "db", "upgrade")

    assert (upgraded.stderr, upgraded.returncode) == ("", 0)
    (kept,) = home.glob(f"postgres-{version}-*")
    assert f"{kept}; remove it once everything works" in upgraded.stdout
    assert (kept / "PG_VERSION").read_text().strip() == version
    assert again.stdout.startswith("Nothing to do")
    with EmbeddedServer(home, options=FAST) as server, psycopg.connect(server.conninfo) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (42,)


@pytest.mark.process
def test_an_upgrade_that_was_killed_between_its_renames_is_finished_by_the_next_start(embedded: Path) -> None:
    (embedded / "postgres").rename(embedded / "postgres.upgraded")

    with EmbeddedServer(embedded, options=FAST) as server, psycopg.connect(server.conninfo) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM tiercel.migration").fetchone() == (True,)
    assert not (embedded / "postgres.upgraded").exists()


@pytest.mark.process
def test_an_upgrade_without_the_earlier_programs_says_what_to_install_and_changes_nothing(
    old_data: tuple[Path, Path], tmp_path: Path
) -> None:
    home = copy_home(old_data[0], tmp_path)

    ran = run_tiercel(home, "db", "upgrade", "--old-binaries", str(tmp_path))

    assert ran.returncode == 1
    assert "does not have its programs: install them" in ran.stderr
    assert sorted(path.name for path in home.glob("postgres*") if path.is_dir()) == ["postgres"]


@pytest.mark.process
def test_an_upgrade_that_fails_says_why_and_changes_nothing(old_data: tuple[Path, Path], tmp_path: Path) -> None:
    home, old = copy_home(old_data[0], tmp_path), old_data[1]
    (home / "postgres" / "global" / "pg_control").unlink()

    with pytest.raises(BootError, match="the upgrade failed: "):
        EmbeddedServer(home, options=FAST).upgrade(old)
    assert sorted(path.name for path in home.glob("postgres*") if path.is_dir()) == ["postgres"]


def test_an_external_database_is_not_upgraded(tiercel: RunCommand) -> None:
    ran = tiercel("db", "upgrade")

    assert ran.code == 1
    assert ran.errors == "tiercel: the database is not embedded; upgrade your server with its own tools\n"
