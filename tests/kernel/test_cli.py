"""The command ``tiercel``: what it prints, what it changes, and its exit codes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kernel.cli.admin import describe_upgrade
from kernel.contracts import Application
from kernel.db.migrations import Migration
from kernel.embedded.server import EmbeddedServer
from kernel.testing import create_database, drop_database
from tests.commands import RunCommand, make_runner
from tests.conftest import FirstMigrate
from tests.kernel.fakes import install_plugin
from tests.processes import ROOT, run_tiercel

NOWHERE = "postgresql://somebody:secret-word@127.0.0.1:1/nothing"
PLUGIN = """
import click
from kernel import Command, hookimpl

@click.command()
def hello():
    click.echo("hello from the plugin")

@hookimpl
def register_commands(services):
    return [Command(command=hello)]
"""


@pytest.fixture(scope="module")
def migrated(server: EmbeddedServer, template: str) -> Iterator[str]:
    """The connection string of a migrated database that no test changes, with a password to hide."""
    conninfo = create_database(server.conninfo, "cli", template)
    yield make_conninfo(conninfo, password="secret-word")
    drop_database(server.conninfo, "cli")


@pytest.fixture
def tiercel(
    migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands in this process, in ``tmp_path`` and on the migrated database."""
    return make_runner(migrated, tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def checked(migrated: str, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The output of ``tiercel check`` for a healthy service."""
    home = tmp_path_factory.mktemp("checked") / ".tiercel"
    write_config(home.parent, "[db]\npool_max = 7")
    return run_tiercel(home, "check", TIERCEL_DATABASE_URL=migrated, TIERCEL_THREADS="3", SECRET_KEY="secret-word")


def write_config(folder: Path, text: str) -> None:
    (folder / "config").mkdir()
    (folder / "config" / "tiercel.toml").write_text(text, encoding="utf-8")


def row_of(output: str, key: str) -> list[str]:
    """Return the words of the line that starts with a key."""
    return next(line.split(maxsplit=2) for line in output.splitlines() if line.startswith(f"{key} "))


@pytest.mark.process
def test_check_of_a_healthy_service_exits_0(checked: subprocess.CompletedProcess[str]) -> None:
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "PROBLEM" not in checked.stdout
    for name in ("configuration", "plugins", "access", "database", "migrations"):
        assert f"[ok] {name}: " in checked.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("server.threads", "3", "environment TIERCEL_THREADS"),
        ("db.pool_max", "7", "config/tiercel.toml"),
        ("server.keepalive_s", "5", "default"),
        ("required", "system", "default"),
        ("db.url", "***", "environment TIERCEL_DATABASE_URL"),
        ("secret_key", "***", "environment SECRET_KEY"),
    ],
)
def test_check_prints_value_and_origin_of_a_key(
    checked: subprocess.CompletedProcess[str], key: str, value: str, origin: str
) -> None:
    assert row_of(checked.stdout, key) == [key, value, origin]


@pytest.mark.process
def test_check_prints_no_secret(checked: subprocess.CompletedProcess[str]) -> None:
    assert "secret-word" not in checked.stdout + checked.stderr


def test_check_as_json_can_be_parsed(tiercel: RunCommand) -> None:
    ran = tiercel("check", "--json")

    found = ran.json()
    assert (ran.code, found["ok"]) == (0, True)
    assert ("plugins", True) in {(finding["check"], finding["ok"]) for finding in found["findings"]}
    assert {"key": "db.url", "value": "***", "origin": "environment TIERCEL_DATABASE_URL"} in found["settings"]
    assert "secret-word" not in ran.output


def test_check_warns_of_what_plugins_find_in_the_database(tiercel: RunCommand, migrated: str) -> None:
    assert "[warning] series" not in tiercel("check").output
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO observability.series (service, endpoint, method) VALUES ('a', 'b', 'c');"
            "INSERT INTO observability.ingest_ledger (key, received, stored, duplicate, rejected, capped, reasons)"
            " VALUES ('key-7', 9, 9, 0, 0, 9, '{}'), ('key-8', 2000, 2000, 0, 0, 2000, '{}')"
        )
        ran = tiercel("check")
        connection.execute("TRUNCATE observability.ingest_ledger")

    assert ran.code == 0
    assert "[warning] series: " in ran.output
    assert "  account 0, key-8: 2,000\n  account 0, key-7: 9\n" in ran.output


def test_check_warns_of_events_that_are_rejected_once_they_are_many(tiercel: RunCommand, migrated: str) -> None:
    statement = (
        "INSERT INTO observability.ingest_ledger (key, received, stored, duplicate, rejected, capped, reasons)"
        " VALUES ('key-7', %s, %s, 0, 30, 0, '{\"method: Required.\": 20, \"latency_ms: Expected int.\": 10}')"
    )
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(statement, [600, 570])
        few = tiercel("check")
        connection.execute(statement, [40, 10])
        many = tiercel("check")
        connection.execute("TRUNCATE observability.ingest_ledger")

    assert (few.code, "] ingest: " in few.output) == (0, False)
    reasons = "method: Required. (40); latency_ms: Expected int. (20)"
    assert f"[warning] ingest: 60 of 640 events of the last day were rejected: {reasons}\n" in many.output


def test_check_of_a_wrong_key_exits_1_and_names_file_and_key(tiercel: RunCommand, tmp_path: Path) -> None:
    write_config(tmp_path, "[db]\npool_maxi = 7\n[server]\nthreads = 'many'")

    ran = tiercel("check")

    assert ran.code == 1
    assert "config/tiercel.toml: db.pool_maxi" in ran.output
    assert "config/tiercel.toml: server.threads: Expected int" in ran.output


def test_check_names_variables_without_effect(tiercel: RunCommand, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///db.sqlite3\nAPI_BASE_URL=http://localhost:8000\n")

    ran = tiercel("check", DB_HOST="db.example.com")

    assert ran.code == 0
    assert "[warning] variables: API_BASE_URL in .env: no effect: links in responses begin with" in ran.output
    assert "[warning] variables: DATABASE_URL in .env: no effect: SQLite is not supported" in ran.output
    why = "environment TIERCEL_DATABASE_URL takes precedence"
    assert f"[warning] variables: DB_HOST in environment: no effect: {why}" in ran.output


@pytest.mark.parametrize(
    ("key", "disabled", "code", "line"),
    [
        (
            "teirs",
            "",
            1,
            "[PROBLEM] filters: the filter 'teirs' of orbit matches no dataset, and so hides nothing; did ",
        ),
        ("planets", "", 0, "[warning] filters: the filter 'planets' of orbit matches no dataset, and so hides nothing"),
        ("tiers", "", 0, "[ok] plugins: 4 loaded"),
        ("tiers", "clubb", 1, "[PROBLEM] disabled: there is no plugin 'clubb'; did you mean club?"),
        ("tiers", "far_away", 0, "[warning] disabled: there is no plugin 'far_away'"),
    ],
)
def test_check_reports_names_that_match_nothing(
    key: str, disabled: str, code: int, line: str, tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = Application(slug="orbit", name="Orbit", filters={key: lambda items: items})
    orbit = install_plugin(monkeypatch, "orbit", {"register_applications": lambda: [application]})

    ran = tiercel("check", TIERCEL_PLUGINS=f"system,trace,club,{orbit}", TIERCEL_DISABLED=disabled)

    assert ran.code == code
    assert line in ran.output


@pytest.mark.parametrize("disabled", ["trace", "club"])
def test_filters_for_a_disabled_plugin_are_no_problem(disabled: str, tiercel: RunCommand) -> None:
    ran = tiercel("check", TIERCEL_DISABLED=disabled)

    assert (ran.code, "[warning] filters: " in ran.output) == (0, True)


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (
            {"TIERCEL_JOBS__SCHEDULES": '{"club.refesh": "off"}'},
            "configuration: jobs.schedules: there is no job 'club.refesh'; there are: ",
        ),
        ({"TIERCEL_PLUGINS": "system,no_such"}, "plugins: no_such.import: plugin 'no_such' cannot be found"),
        ({"TIERCEL_PLUGINS": "system,no_such", "TIERCEL_REQUIRED": "no_such"}, "plugins: no_such.import: "),
        ({"TIERCEL_BIND": "0.0.0.0:8000"}, "access: auth is 'open' and 0.0.0.0:8000 can be reached"),
        (
            {"TIERCEL_AUTH": "required", "TIERCEL_DISABLED": "accounts"},
            "access: auth is 'required', but no plugin authenticates",
        ),
        ({"TIERCEL_DEBUGG": "1"}, "configuration: environment TIERCEL_DEBUGG: unknown setting"),
        (
            {"TIERCEL_CLUB__RETRIES": "x"},
            "configuration: environment TIERCEL_CLUB__RETRIES: club.retries: Expected int",
        ),
    ],
)
def test_check_of_a_problem_exits_1_and_names_it(tiercel: RunCommand, variables: dict[str, str], problem: str) -> None:
    ran = tiercel("check", **variables)

    assert ran.code == 1
    assert f"[PROBLEM] {problem}" in ran.output


def test_check_of_pending_migrations_exits_1_and_says_what_to_do(tiercel: RunCommand, empty_database: str) -> None:
    ran = tiercel("check", TIERCEL_DATABASE_URL=empty_database)

    assert ran.code == 1
    _, _, listed = ran.output.partition("[PROBLEM] migrations: ")
    first, second = listed.splitlines()[:2]
    assert first.endswith(" not applied; run: tiercel migrate")
    assert second == "  kernel/0001_datasets"


def test_check_of_an_unreachable_database_exits_1_within_its_timeout(tiercel: RunCommand) -> None:
    started = time.monotonic()

    ran = tiercel("check", TIERCEL_DATABASE_URL=NOWHERE, TIERCEL_DB__STARTUP_TIMEOUT_S="1")

    assert time.monotonic() - started < 10
    assert ran.code == 1
    assert "[PROBLEM] database: the database cannot be reached: " in ran.output
    assert "secret-word" not in ran.output + ran.errors


def test_migrate_applies_its_plan_and_then_nothing(tiercel: RunCommand, empty_database: str) -> None:
    plan, applied, again, nothing = (
        tiercel("migrate", *options, "--json", TIERCEL_DATABASE_URL=empty_database)
        for options in (["--plan"], [], ["--plan"], [])
    )

    assert plan.json()[0].startswith("kernel/")
    assert "observability/0001_events" in plan.json()
    assert applied.json() == plan.json()
    assert (again.json(), nothing.json()) == ([], [])


@pytest.mark.process
def test_migrate_works_on_the_embedded_database_and_leaves_no_server_behind(first_migrate: FirstMigrate) -> None:
    home, ran = first_migrate

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "observability/0001_events applied" in ran.stdout
    assert not (home / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("header", "lines"),
    [
        (
            "-- compatible: 0.1.0\n-- rollback: safe\n-- locks: SHARE on club.source, scan\n",
            [
                "running beside it: version 0.1.0 and later",
                "roll back: to version 0.1.0 and later, and nothing is lost",
                "locks: writes of club.source wait while it is read (SHARE)",
            ],
        ),
        (
            "-- compatible: 0.1.0\n-- rollback: loses the colours\n-- locks: none\n",
            [
                "running beside it: version 0.1.0 and later",
                "roll back: to version 0.1.0 and later, which loses the colours",
                "locks: none that reads or writes wait for",
            ],
        ),
        (
            "-- compatible: 0.2.0\n-- rollback: impossible times have another unit\n-- locks: none\n",
            [
                "running beside it: no earlier version; stop the service first",
                "roll back: only from a backup made before: times have another unit",
                "locks: none that reads or writes wait for",
            ],
        ),
        (
            "",
            ["running beside it: not stated; stop the service first", "roll back: not stated; make a backup first"],
        ),
    ],
)
def test_the_plan_of_an_upgrade_says_what_may_run_beside_it(tmp_path: Path, header: str, lines: list[str]) -> None:
    path = tmp_path / "0007_more.sql"
    path.write_text(header)

    assert list(describe_upgrade(Migration("club", path, "0.2.0.dev0"))) == lines


@pytest.mark.parametrize("command", ["migrate", "serve", "up"])
def test_a_command_that_finds_no_database_exits_1_with_one_line(tiercel: RunCommand, command: str) -> None:
    ran = tiercel(command, TIERCEL_DATABASE_URL=NOWHERE, TIERCEL_DB__STARTUP_TIMEOUT_S="0")

    assert ran.code == 1
    assert ran.errors.startswith("tiercel: the database cannot be reached: ")
    assert "Traceback" not in ran.errors


def test_a_home_that_cannot_be_created_is_named_in_one_line(tiercel: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ran = tiercel("migrate", TIERCEL_HOME=str(tmp_path / "file" / "home"))

    assert ran.code == 1
    assert ran.errors.startswith("tiercel: home cannot be made: ")
    assert "file/home" in ran.errors
    assert len(ran.errors.splitlines()) == 1


def test_plugins_lists_state_and_reason(tiercel: RunCommand) -> None:
    ran = tiercel("plugins", TIERCEL_PLUGINS="system,observability,no_such", TIERCEL_DISABLED="observability")

    assert ran.code == 0
    assert row_of(ran.output, "system")[:2] == ["system", "loaded"]
    assert row_of(ran.output, "observability")[:2] == ["observability", "disabled"]
    assert row_of(ran.output, "no_such")[:2] == ["no_such", "quarantined"]
    assert "plugin 'no_such' cannot be found" in row_of(ran.output, "no_such")[2]


def test_plugins_as_json_can_be_parsed(tiercel: RunCommand) -> None:
    found = {plugin["name"]: plugin for plugin in tiercel("plugins", "--json").json()}

    assert found["system"]["required"] is True
    assert found["observability"]["origin"] == "plugins.observability"


def test_routes_lists_method_path_policy_and_plugin(tiercel: RunCommand) -> None:
    ran = tiercel("routes")

    assert ["GET", "/readyz", "public", "kernel"] in [line.split() for line in ran.output.splitlines()]


def test_routes_as_json_can_be_parsed(tiercel: RunCommand) -> None:
    found = tiercel("routes", "--json").json()

    wanted = {"method": "POST", "path": "/api/requests", "policy": "ingest", "plugin": "observability"}
    assert wanted in found


def test_shell_runs_a_line_on_the_open_database(tiercel: RunCommand) -> None:
    line = "with db.connection() as connection: print(connection.execute('SELECT 40 + 2').fetchone()[0])"

    ran = tiercel("shell", "-c", line)

    assert (ran.code, ran.output) == (0, "42\n")


def test_shell_counts_request_logs_in_one_line(tiercel: RunCommand) -> None:
    ran = tiercel("shell", "-c", "print(sql('SELECT count(*) FROM observability.event WHERE latency_ms > %s', [500]))")

    assert (ran.code, ran.output) == (0, "[{'count': 0}]\n")


def test_mig_is_migrate(tiercel: RunCommand) -> None:
    ran = tiercel("mig", "--plan", "--json")

    assert (ran.code, ran.json()) == (0, [])


@pytest.mark.parametrize("command", ["runserver", "run"])
@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (["0.0.0.0:8001"], "tiercel: auth is 'open' and 0.0.0.0:8001 can be reached from other machines"),
        (["8001"], "tiercel: the database cannot be reached: "),
        ([], "tiercel: the database cannot be reached: "),
        (["nonsense:x"], "tiercel: environment TIERCEL_BIND: server.bind: Expected HOST:PORT"),
    ],
)
def test_runserver_is_serve_with_an_address(
    command: str, address: list[str], problem: str, tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIERCEL_BIND", "")  # the command sets it

    ran = tiercel(command, *address, TIERCEL_DATABASE_URL=NOWHERE, TIERCEL_DB__STARTUP_TIMEOUT_S="0")

    assert ran.code == 1
    assert ran.errors.startswith(problem)
    assert os.environ["TIERCEL_BIND"] == {"8001": "127.0.0.1:8001"}.get("".join(address), "".join(address))


def test_help_does_not_list_other_names_of_commands(tiercel: RunCommand) -> None:
    listed = {line.split()[0] for line in tiercel("--help").output.splitlines() if line.startswith("  ")}

    assert {"serve", "migrate", "test", "logs"} <= listed
    assert listed.isdisjoint({"runserver", "run", "mig"})


def test_an_unknown_command_exits_2_and_is_named(tiercel: RunCommand) -> None:
    ran = tiercel("fly")

    assert ran.code == 2
    assert "No such command 'fly'" in ran.errors


def test_help_works_when_the_configuration_does_not(tiercel: RunCommand, tmp_path: Path) -> None:
    write_config(tmp_path, "[server]\nthreads = 'many'")

    ran = tiercel("--help")

    assert ran.code == 0
    assert "Verify configuration" in ran.output
    assert "config/tiercel.toml: server.threads" in ran.errors


def test_another_configuration_file_can_be_named(tiercel: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[server]\nthreads = 'many'")

    # The variable is set here so that it is restored: the option sets it too.
    ran = tiercel("--config", "other.toml", "plugins", TIERCEL_CONFIG="")

    assert ran.code == 1
    assert ran.errors.startswith("tiercel: other.toml: server.threads: Expected int")


@pytest.fixture
def acme(tmp_path: Path) -> dict[str, str]:
    """The environment of a service with a plugin that has a command."""
    package = tmp_path / "acme"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "greeting.py").write_text(PLUGIN)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    return {"PYTHONPATH": path, "TIERCEL_PLUGINS": "system,observability,acme.greeting"}


@pytest.mark.process
def test_help_of_a_plugin_needs_no_database(tmp_path: Path, acme: dict[str, str]) -> None:
    ran = run_tiercel(tmp_path / ".tiercel", "greeting", "--help", **acme, TIERCEL_DATABASE_URL=NOWHERE)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Commands of the plugin greeting." in ran.stdout
    assert "hello" in ran.stdout


@pytest.mark.process
def test_a_command_of_a_plugin_runs(tmp_path: Path, acme: dict[str, str], migrated: str) -> None:
    ran = run_tiercel(tmp_path / ".tiercel", "greeting", "hello", **acme, TIERCEL_DATABASE_URL=migrated)

    assert (ran.returncode, ran.stdout) == (0, "hello from the plugin\n")
