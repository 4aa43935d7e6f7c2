"""Roles that may do less than the owner of the database: what works, and that the cure of what does not is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kernel.app import Tiercel
from kernel.db.migrations import (
    MissingPrivileges,
    describe_timescaledb,
    find_migrations,
    kernel_migrations,
    migrate,
    schemas_of,
)
from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError
from kernel.testing import Client, create_database, make_configuration, running
from tests.commands import RunCommand, make_runner
from tests.conftest import FAST
from tests.plugins.observability.events import make_event

pytestmark = pytest.mark.slow

ROLE = "restricted"
LIST = "/api/requests/"


@pytest.fixture
def restricted(empty_database: str) -> Iterator[str]:
    """The connection string of a role that may only connect to a new database."""
    administer(empty_database, f"CREATE ROLE {ROLE} LOGIN")
    yield make_conninfo(empty_database, user=ROLE)
    administer(empty_database, f"DROP OWNED BY {ROLE} CASCADE; DROP ROLE {ROLE}")


def administer(database: str, statements: str) -> None:
    """Execute statements as a superuser in a database."""
    with psycopg.connect(make_conninfo(database, user="postgres"), autocommit=True) as connection:
        for statement in statements.split(";"):
            if statement.strip():
                connection.execute(statement.encode())


@pytest.fixture
def tiercel(
    restricted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands as the restricted role."""
    return make_runner(restricted, tmp_path, monkeypatch, capsys)


def statements_in(output: str) -> str:
    """Return the statements that an output tells to run."""
    return "".join(re.findall(r"run: ((?:(?:GRANT|ALTER|REASSIGN)\b[^;]*; ?)+)", output))


@contextmanager
def serving(conninfo: str, **values: Any) -> Iterator[Client]:
    with running(make_configuration(db={"url": conninfo}, log={"level": "error"}, **values)) as client:
        yield client


def test_check_and_migrate_name_the_statement_that_lets_the_role_migrate(tiercel: RunCommand, restricted: str) -> None:
    checked, refused = tiercel("check"), tiercel("migrate")

    assert (checked.code, refused.code) == (1, 1)
    assert "[PROBLEM] privileges: migrations would fail:" in checked.output
    assert statements_in(checked.output) == statements_in(refused.errors)
    assert re.fullmatch(rf"GRANT CREATE ON DATABASE empty_\d+ TO {ROLE};", statements_in(checked.output))
    assert len(refused.errors.splitlines()) == 1

    administer(restricted, statements_in(checked.output))
    assert tiercel("migrate").code == 0
    assert tiercel("check").code == 0


def test_schemas_that_belong_to_another_role_are_named_with_their_owner(tiercel: RunCommand, restricted: str) -> None:
    administer(restricted, "CREATE SCHEMA tiercel; CREATE SCHEMA club")
    grant = f"GRANT CREATE ON DATABASE {conninfo_to_dict(restricted)['dbname']} TO {ROLE}"
    administer(restricted, grant)

    checked = tiercel("check")

    assert "schema club, which belongs to postgres; run: ALTER SCHEMA club OWNER TO restricted;" in checked.output
    assert "schema tiercel, which belongs to postgres" in checked.output
    administer(restricted, statements_in(checked.output))
    assert tiercel("migrate").code == 0


def test_tables_that_belong_to_another_role_are_a_problem_of_migrations(tiercel: RunCommand, restricted: str) -> None:
    administer(restricted, "CREATE ROLE former_owner")
    try:
        name = conninfo_to_dict(restricted)["dbname"]
        administer(restricted, f"GRANT CREATE ON DATABASE {name} TO {ROLE}")
        migrate(restricted, kernel_migrations()[:2])
        administer(restricted, "ALTER TABLE tiercel.job_run OWNER TO former_owner")

        checked, refused = tiercel("check"), tiercel("migrate")

        for output in (checked.output, refused.errors):
            assert "role restricted may not change objects of former_owner in schema tiercel" in output
        administer(restricted, f"GRANT former_owner TO {ROLE}")
        assert tiercel("migrate").code == 0
    finally:
        administer(restricted, "DROP OWNED BY former_owner CASCADE; DROP ROLE former_owner")


def test_a_role_with_its_own_schemas_needs_no_privilege_on_the_database(restricted: str) -> None:
    service = Tiercel(make_configuration(db={"url": restricted}))
    schemas = schemas_of(service.migrations())
    administer(restricted, ";".join(f"CREATE SCHEMA {name} AUTHORIZATION {ROLE}" for name in schemas))

    with serving(restricted) as client:
        assert client.post(LIST, make_event()).status == 201
        assert client.service.missing_privileges() == MissingPrivileges((), ())
        assert client.service.shared.jobs.run_inline("observability.retention").state == "succeeded"


def test_a_role_that_owns_nothing_reads_and_says_which_privilege_a_write_lacks(
    tiercel: RunCommand, restricted: str
) -> None:
    owner = make_conninfo(restricted, user="tiercel")
    with serving(owner) as client:
        assert client.post(LIST, make_event()).status == 201

    missing = Tiercel(make_configuration(db={"url": restricted})).missing_privileges()
    checked = tiercel("check")
    assert checked.code == 1
    assert "[PROBLEM] privileges: the service cannot run:" in checked.output
    administer(restricted, " ".join(statements_in(each) for each in missing.to_run))

    checked = tiercel("check")
    assert checked.code == 0
    assert "[warning] privileges: the service runs, but" in checked.output
    with serving(restricted) as client:
        assert len(client.get(f"{LIST}?service=billing").json()["results"]) == 1
        assert client.post(LIST, make_event()).status == 201
        assert client.service.shared.jobs.run_inline("observability.rollups").state == "succeeded"
        refused = client.post(LIST, make_event(time="2025-08-15T12:00:00Z"))
    assert (refused.status, refused.json()["code"]) == (503, "database_permission")
    assert refused.json()["detail"].endswith(": permission denied for schema observability")


def test_a_role_that_lost_the_privilege_to_create_schemas_still_runs(tiercel: RunCommand, restricted: str) -> None:
    database = conninfo_to_dict(restricted)["dbname"]
    administer(restricted, f"GRANT CREATE ON DATABASE {database} TO {ROLE}")
    assert tiercel("migrate").code == 0
    administer(restricted, f"REVOKE CREATE ON DATABASE {database} FROM {ROLE}")

    assert "[ok] privileges: " in tiercel("check").output
    with serving(restricted) as client:
        assert client.post(LIST, make_event()).status == 201


def test_check_of_a_read_only_database_says_that_migrations_would_fail(
    tiercel: RunCommand, empty_database: str
) -> None:
    read_only = make_conninfo(empty_database, options="-c default_transaction_read_only=on")

    checked = tiercel("check", TIERCEL_DATABASE_URL=read_only)

    assert checked.code == 1
    assert "[PROBLEM] privileges: migrations would fail:\n  the database is read-only" in checked.output


@pytest.mark.parametrize(
    ("statement", "cure"),
    [
        ("CREATE TABLE public.a ()", "GRANT USAGE, CREATE ON SCHEMA public TO restricted;"),
        ("CREATE EXTENSION pg_stat_statements", 'as a superuser: CREATE EXTENSION "pg_stat_statements";'),
        ("ALTER TABLE elsewhere.b ADD c int", "GRANT <its owner> TO restricted;"),
    ],
)
def test_a_privilege_that_only_the_migration_knows_of_is_named_with_its_statement(
    restricted: str, tmp_path: Path, statement: str, cure: str
) -> None:
    administer(
        restricted,
        f"CREATE SCHEMA tiercel AUTHORIZATION {ROLE}; CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.b ();"
        f"GRANT USAGE ON SCHEMA elsewhere TO {ROLE}",
    )
    (tmp_path / "0001_what.sql").write_text(statement)

    with pytest.raises(BootError, match=re.escape(cure)):
        migrate(restricted, find_migrations("demo", tmp_path))


# --- TimescaleDB ------------------------------------------------------------------------------------------------------

# What a server with TimescaleDB has: an extension, here an empty one, and a setting of the library that is loaded.
CONTROL = "default_version = '2.99.0'\nsuperuser = true\ntrusted = {trusted}\nrelocatable = false\n"


@pytest.fixture(scope="module")
def timescale_like(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that offers an extension of this name."""
    folder = tmp_path_factory.mktemp("share")
    (folder / "extension").mkdir()
    (folder / "extension" / "timescaledb--2.99.0.sql").write_text("SELECT 1;")
    (folder / "extension" / "timescaledb.control").write_text(CONTROL.format(trusted="true"))
    for path in (folder, *folder.parents):
        if str(path).startswith(str(tmp_path_factory.getbasetemp())):
            path.chmod(0o755)
    options = {**FAST, "extension_control_path": f"{folder}:$system", "timescaledb.disable_load": "off"}
    with EmbeddedServer(tmp_path_factory.mktemp("timescale"), options=options) as server:
        yield server


def has_extension(conninfo: str) -> bool:
    with psycopg.connect(conninfo) as connection:
        return connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is not None


def test_timescaledb_is_created_by_the_first_migration_of_an_owner(timescale_like: EmbeddedServer) -> None:
    database = create_database(timescale_like.conninfo, "owned")
    assert describe_timescaledb(database) is None

    migrate(database, kernel_migrations())

    assert has_extension(database)
    assert describe_timescaledb(database) is None


def test_timescaledb_is_never_created_where_tables_exist(timescale_like: EmbeddedServer) -> None:
    database = create_database(timescale_like.conninfo, "migrated")
    migrate(database, kernel_migrations()[:1])
    with psycopg.connect(make_conninfo(database, user="postgres")) as connection:
        connection.execute("DROP EXTENSION timescaledb")

    migrate(database, kernel_migrations())

    assert not has_extension(database)
    assert str(describe_timescaledb(database)).startswith("TimescaleDB is not used: the tables were made without it")


def test_events_in_partitions_are_written_and_removed_although_timescaledb_was_created_later(
    timescale_like: EmbeddedServer,
) -> None:
    database = create_database(timescale_like.conninfo, "later")
    migrate(database, kernel_migrations()[:1])
    administer(database, "DROP EXTENSION timescaledb")
    with serving(database):
        administer(database, "CREATE EXTENSION timescaledb")

    with serving(database) as client:
        assert client.get("/stats/").json()["engine"]["timescaledb_version"] == "2.99.0"
        assert client.post(LIST, make_event()).status == 201
    with serving(database, observability={"raw_days": 30}) as client:
        assert client.service.shared.jobs.run_inline("observability.retention").state == "succeeded"
        assert client.get(f"{LIST}?service=billing").json()["results"] == []


def test_a_role_that_may_not_create_timescaledb_is_told_by_check(
    timescale_like: EmbeddedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = create_database(timescale_like.conninfo, "foreign_database")
    administer(
        database,
        "CREATE ROLE visitor LOGIN; CREATE SCHEMA tiercel AUTHORIZATION visitor",
    )
    visitor = make_conninfo(database, user="visitor")

    checked = make_runner(visitor, tmp_path, monkeypatch, capsys)("check")

    assert "[warning] timescaledb: TimescaleDB is available, but the role may not create it" in checked.output
    assert "CREATE EXTENSION timescaledb;" in checked.output
    run = make_runner(visitor, tmp_path, monkeypatch, capsys)
    assert "timescaledb_not_used" in run("migrate").errors
    assert not has_extension(database)
    assert "the tables were made without it, as the role may not create it" in run("check").output
