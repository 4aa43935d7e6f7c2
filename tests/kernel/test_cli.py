"""The command ``tiercel``: what it prints, what it changes, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from kernel.embedded.server import EmbeddedServer
from kernel.testing import create_database, drop_database
from tests.processes import ROOT, run_tiercel

pytestmark = pytest.mark.process

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
Ran = subprocess.CompletedProcess[str]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".tiercel"


@pytest.fixture(scope="module")
def migrated(server: EmbeddedServer, template: str) -> Iterator[str]:
    """How to connect to a migrated database that no test changes, with a password to hide."""
    conninfo = create_database(server.conninfo, "cli", template)
    yield make_conninfo(conninfo, password="secret-word")
    drop_database(server.conninfo, "cli")


@pytest.fixture(scope="module")
def checked(migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """What ``tiercel check`` says of a service that is well."""
    home = tmp_path_factory.mktemp("checked") / ".tiercel"
    write_config(home, "[db]\npool_max = 7")
    return run_tiercel(home, "check", TIERCEL_DATABASE_URL=migrated, TIERCEL_THREADS="3", SECRET_KEY="secret-word")


def write_config(home: Path, text: str) -> None:
    (home.parent / "config").mkdir()
    (home.parent / "config" / "tiercel.toml").write_text(text, encoding="utf-8")


def row_of(ran: Ran, key: str) -> list[str]:
    """Return the words of the line that starts with a key."""
    return next(line.split(maxsplit=2) for line in ran.stdout.splitlines() if line.startswith(f"{key} "))


def test_check_of_a_service_that_is_well_exits_0(checked: Ran) -> None:
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "PROBLEM" not in checked.stdout
    for name in ("configuration", "plugins", "access", "database", "migrations"):
        assert f"[ok] {name}: " in checked.stdout


@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("server.threads", "3", "environment TIERCEL_THREADS"),
        ("db.pool_max", "7", "config/tiercel.toml"),
        ("server.keepalive_s", "5", "default"),
        ("db.url", "***", "environment TIERCEL_DATABASE_URL"),
        ("secret_key", "***", "environment SECRET_KEY"),
    ],
)
def test_check_says_what_won_and_from_where(checked: Ran, key: str, value: str, origin: str) -> None:
    assert row_of(checked, key) == [key, value, origin]


def test_check_shows_no_secret(checked: Ran) -> None:
    assert "secret-word" not in checked.stdout + checked.stderr


def test_check_as_json_can_be_parsed(home: Path, migrated: str) -> None:
    ran = run_tiercel(home, "check", "--json", TIERCEL_DATABASE_URL=migrated)

    found = json.loads(ran.stdout)
    assert (ran.returncode, found["ok"]) == (0, True)
    assert ("plugins", True) in {(finding["check"], finding["ok"]) for finding in found["findings"]}
    assert {"key": "db.url", "value": "***", "origin": "environment TIERCEL_DATABASE_URL"} in found["settings"]
    assert "secret-word" not in ran.stdout


def test_check_of_a_wrong_key_exits_1_and_names_file_and_key(home: Path) -> None:
    write_config(home, "[db]\npool_maxi = 7\n[server]\nthreads = 'many'")

    ran = run_tiercel(home, "check")

    assert ran.returncode == 1
    assert "config/tiercel.toml: db.pool_maxi" in ran.stdout
    assert "config/tiercel.toml: server.threads: Expected int" in ran.stdout


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"TIERCEL_PLUGINS": "system,no_such"}, "plugins: no_such.import: plugin 'no_such' cannot be found"),
        ({"TIERCEL_PLUGINS": "system,no_such", "TIERCEL_REQUIRED": "no_such"}, "plugins: no_such.import: "),
        ({"TIERCEL_BIND": "0.0.0.0:8000"}, "access: auth is 'open' and 0.0.0.0:8000 can be reached"),
        ({"TIERCEL_AUTH": "required"}, "access: auth is 'required', but no plugin authenticates"),
        ({"TIERCEL_DEBUGG": "1"}, "configuration: environment TIERCEL_DEBUGG: unknown setting"),
        (
            {"TIERCEL_CLUB__RETRIES": "x"},
            "configuration: environment TIERCEL_CLUB__RETRIES: club.retries: Expected int",
        ),
    ],
)
def test_check_of_a_problem_exits_1_and_names_it(
    home: Path, migrated: str, variables: dict[str, str], problem: str
) -> None:
    ran = run_tiercel(home, "check", TIERCEL_DATABASE_URL=migrated, **variables)

    assert ran.returncode == 1
    assert f"[PROBLEM] {problem}" in ran.stdout


def test_check_of_pending_migrations_exits_1_and_says_what_to_do(home: Path, empty_database: str) -> None:
    ran = run_tiercel(home, "check", TIERCEL_DATABASE_URL=empty_database)

    assert ran.returncode == 1
    assert "[PROBLEM] migrations: not applied: procrastinate/00.00" in ran.stdout
    assert "run: tiercel migrate" in ran.stdout


def test_check_of_an_unreachable_database_exits_1_within_its_timeout(home: Path) -> None:
    started = time.monotonic()

    ran = run_tiercel(home, "check", TIERCEL_DATABASE_URL=NOWHERE, TIERCEL_DB__STARTUP_TIMEOUT_S="1")

    assert time.monotonic() - started < 10
    assert ran.returncode == 1
    assert "[PROBLEM] database: the database cannot be reached: " in ran.stdout
    assert "secret-word" not in ran.stdout + ran.stderr


def test_migrate_applies_what_its_plan_said_and_then_nothing(home: Path, empty_database: str) -> None:
    plan, applied, again, nothing = (
        run_tiercel(home, "migrate", *options, "--json", TIERCEL_DATABASE_URL=empty_database)
        for options in (["--plan"], [], ["--plan"], [])
    )

    assert json.loads(plan.stdout)[0].startswith("procrastinate/")
    assert "observability/0001_events" in json.loads(plan.stdout)
    assert json.loads(applied.stdout) == json.loads(plan.stdout)
    assert (json.loads(again.stdout), json.loads(nothing.stdout)) == ([], [])


def test_migrate_works_on_the_embedded_database_and_leaves_no_server_behind(home: Path) -> None:
    ran = run_tiercel(home, "migrate")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "observability/0001_events applied" in ran.stdout
    assert not (home / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("command", ["migrate", "serve", "up"])
def test_a_command_that_finds_no_database_exits_1_with_one_line(home: Path, command: str) -> None:
    ran = run_tiercel(home, command, TIERCEL_DATABASE_URL=NOWHERE, TIERCEL_DB__STARTUP_TIMEOUT_S="0")

    assert ran.returncode == 1
    assert ran.stderr.startswith("tiercel: the database cannot be reached: ")
    assert "Traceback" not in ran.stderr


def test_a_home_that_cannot_be_made_is_named_in_one_line(home: Path) -> None:
    (home.parent / "file").touch()

    ran = run_tiercel(home, "migrate", TIERCEL_HOME=str(home.parent / "file" / "home"))

    assert ran.returncode == 1
    assert ran.stderr.startswith("tiercel: home cannot be made: ")
    assert "file/home" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_plugins_lists_state_and_reason(home: Path) -> None:
    ran = run_tiercel(home, "plugins", TIERCEL_PLUGINS="system,observability,no_such", TIERCEL_DISABLED="observability")

    assert ran.returncode == 0
    assert row_of(ran, "system")[:2] == ["system", "loaded"]
    assert row_of(ran, "observability")[:2] == ["observability", "disabled"]
    assert row_of(ran, "no_such")[:2] == ["no_such", "quarantined"]
    assert "plugin 'no_such' cannot be found" in row_of(ran, "no_such")[2]


def test_plugins_as_json_can_be_parsed(home: Path) -> None:
    found = {plugin["name"]: plugin for plugin in json.loads(run_tiercel(home, "plugins", "--json").stdout)}

    assert found["system"]["required"] is True
    assert found["observability"]["origin"] == "plugins.observability"


def test_routes_lists_method_path_policy_and_plugin(home: Path) -> None:
    ran = run_tiercel(home, "routes")

    assert ["GET", "/readyz", "public", "kernel"] in [line.split() for line in ran.stdout.splitlines()]


def test_routes_as_json_can_be_parsed(home: Path) -> None:
    found = json.loads(run_tiercel(home, "routes", "--json").stdout)

    wanted = {"method": "POST", "path": "/api/requests", "policy": "ingest", "plugin": "observability"}
    assert wanted in found


def test_shell_runs_a_line_on_the_open_database(home: Path, migrated: str) -> None:
    line = "with db.connection() as connection: print(connection.execute('SELECT 40 + 2').fetchone()[0])"

    ran = run_tiercel(home, "shell", "-c", line, TIERCEL_DATABASE_URL=migrated)

    assert (ran.returncode, ran.stdout) == (0, "42\n")


def test_an_unknown_command_exits_2_and_is_named(home: Path) -> None:
    ran = run_tiercel(home, "fly")

    assert ran.returncode == 2
    assert "No such command 'fly'" in ran.stderr


def test_help_works_when_the_configuration_does_not(home: Path) -> None:
    write_config(home, "[server]\nthreads = 'many'")

    ran = run_tiercel(home, "--help")

    assert ran.returncode == 0
    assert "Verify configuration" in ran.stdout
    assert "config/tiercel.toml: server.threads" in ran.stderr


def test_another_configuration_file_can_be_named(home: Path) -> None:
    (home.parent / "other.toml").write_text("[server]\nthreads = 'many'")

    ran = run_tiercel(home, "--config", "other.toml", "plugins")

    assert ran.returncode == 1
    assert ran.stderr.startswith("tiercel: other.toml: server.threads: Expected int")


@pytest.fixture
def acme(home: Path) -> dict[str, str]:
    """The environment of a service with a plugin that has a command."""
    package = home.parent / "acme"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "greeting.py").write_text(PLUGIN)
    path = os.pathsep.join([str(ROOT), str(home.parent)])
    return {"PYTHONPATH": path, "TIERCEL_PLUGINS": "system,observability,acme.greeting"}


def test_help_of_a_plugin_needs_no_database(home: Path, acme: dict[str, str]) -> None:
    ran = run_tiercel(home, "greeting", "--help", **acme, TIERCEL_DATABASE_URL=NOWHERE)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Commands of the plugin greeting." in ran.stdout
    assert "hello" in ran.stdout


def test_a_command_of_a_plugin_runs(home: Path, acme: dict[str, str], migrated: str) -> None:
    ran = run_tiercel(home, "greeting", "hello", **acme, TIERCEL_DATABASE_URL=migrated)

    assert (ran.returncode, ran.stdout) == (0, "hello from the plugin\n")
