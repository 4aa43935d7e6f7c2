"""``tiercel observability kpis``, ``top``, ``hourly``, ``daily``, ``services`` and ``endpoints``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.testing import Client, make_configuration, running
from tests.commands import RunCommand, make_runner
from tests.plugins.observability.analytics.factories import container_of, ingest, random_events
from tests.plugins.observability.conftest import QUIET
from tests.plugins.observability.engines import TestedEngine, run_statement
from tests.plugins.observability.events import make_event

WINDOW = {"start": "2025-12-12", "end": "2025-12-14"}
ROUTES = {"top": "top-endpoints"}
FRESH = "fresh_until"


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with random events that rollups do not include."""
    ingest(shared, random_events(100))
    return shared


@pytest.fixture(scope="module")
def database_without_first_day(engine: TestedEngine) -> Iterator[str]:
    """A database with random events over three days, the first of which retention has removed, and one dirty hour."""
    with engine.database() as url:
        with running(make_configuration(db=engine.settings(url), **QUIET)) as client:
            ingest(client, random_events(100))
            container_of(client).rollups.refresh()
            run_statement(client, "UPDATE observability.retention SET from_time = '2025-12-13 00:00Z'")
            # So that ``fresh_until`` is not the time of the request.
            ingest(client, [make_event(time="2025-12-14T10:20:00Z")])
        yield url


@pytest.fixture
def make_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], RunCommand]:
    """Return a function that makes a runner of the plugin's commands on a database."""

    def make(database: str) -> RunCommand:
        run = make_runner(database, tmp_path, monkeypatch, capsys)
        return lambda *arguments: run("observability", *arguments, TIERCEL_LOG__LEVEL="error")

    return make


@pytest.fixture
def run(make_run: Callable[[str], RunCommand], module_database: str) -> RunCommand:
    """Run a command of this plugin on the database of ``client``."""
    return make_run(module_database)


@pytest.mark.parametrize(
    ("command", "parameters"),
    [
        ("kpis", {}),
        ("kpis", {"approx": "true", "percentiles": "50,99.9", "service": "BILLING", "method": "get"}),
        ("kpis", {"error_from": "400", "endpoint": "/a", "granularity": "daily", "application": "skyflow"}),
        ("top", {}),
        ("top", {"sort_by": "p95_latency_ms", "direction": "asc", "limit": "2", "with_p95": "true"}),
        ("hourly", {"limit": "7"}),
        ("daily", {"service": "skyflow", "approx": "true", "percentiles": "99"}),
        ("kpis", {"group_by": "service,status", "sort_by": "error_rate", "limit": "3"}),
        ("top", {"group_by": "service", "sort_by": "p99"}),
        ("services", {"ordering": "-hits"}),
        ("endpoints", {"service": "billing", "page_size": "1", "page": "2"}),
    ],
)
def test_json_is_what_the_route_answers(
    client: Client, run: RunCommand, command: str, parameters: dict[str, str]
) -> None:
    given = WINDOW | parameters
    query = "&".join(f"{name}={value}" for name, value in given.items())
    options = [
        part
        for name, value in given.items()
        for part in [f"--{name.replace('_', '-')}", *([] if value == "true" else [value])]
    ]

    answered = client.get(f"/api/requests/{ROUTES.get(command, command)}/?{query}").json()
    printed = run(command, *options, "--json")

    assert printed.code == 0, printed.errors
    shown = printed.json()
    if command in ("services", "endpoints"):
        answered = answered["results"]
    if command == "kpis":
        del answered[FRESH], shown[FRESH]
    assert shown == answered


def test_tables_show_the_same_rows(client: Client, run: RunCommand) -> None:
    answer = client.get("/api/requests/top-endpoints/?start=2025-12-12&end=2025-12-14")
    rows = answer.json()

    printed = run("top", "--start", "2025-12-12", "--end", "2025-12-14")

    titles, *lines = printed.output.splitlines()
    assert titles.split()[:3] == ["service", "endpoint", "hits"]
    assert [line.split()[:3] for line in lines] == [[row["service"], row["endpoint"], str(row["hits"])] for row in rows]
    assert printed.errors == f"source: {answer.headers['x-source']}\nfresh_until: {answer.headers['x-fresh-until']}\n"


@pytest.mark.parametrize(
    ("arguments", "within"),
    [
        (["top", "--with-p95", "--approx"], "p95_max_relative_error: 0.01\n"),
        (["hourly"], ""),
        (["daily", "--approx"], "p95_max_relative_error: 0.01\n"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_metadata_of_rows_is_printed_to_stderr(
    make_run: Callable[[str], RunCommand],
    database_without_first_day: str,
    arguments: list[str],
    within: str,
    options: list[str],
) -> None:
    printed = make_run(database_without_first_day)(*arguments, "--start", "2025-12-12", "--end", "2025-12-14", *options)

    source = "hourly" if arguments == ["hourly"] else "daily"
    assert printed.errors == (
        f"source: {source}\n"
        "fresh_until: 2025-12-14T10:00:00Z\n"
        "covered: 2025-12-13T00:00:00Z/2025-12-15T00:00:00Z\n" + within
    )


def test_kpis_say_what_they_cover(make_run: Callable[[str], RunCommand], database_without_first_day: str) -> None:
    printed = make_run(database_without_first_day)("kpis", "--start", "2025-12-12", "--end", "2025-12-14")

    figures = dict(line.split(maxsplit=1) for line in printed.output.splitlines())
    assert figures["covered"] == "2025-12-13T00:00:00Z to 2025-12-15T00:00:00Z"


@pytest.mark.usefixtures("client")
def test_kpis_are_a_table_of_figures(run: RunCommand) -> None:
    printed = run("kpis", "--start", "2025-12-12", "--end", "2025-12-14", "--percentiles", "50")

    figures = dict(line.split(maxsplit=1) for line in printed.output.splitlines())
    assert (figures["hits"], figures["source"]) == ("100", "hourly")
    assert figures["p50_latency_ms"].endswith("(raw)")


@pytest.mark.usefixtures("client")
def test_groups_of_kpis_are_a_table_below_the_figures(run: RunCommand) -> None:
    printed = run("kpis", "--time-after", "2025-12-12", "--time-before", "2025-12-14", "--group-by", "service")

    figures, groups = printed.output.split("\n\n")
    titles, *rows = groups.splitlines()
    assert "groups" not in figures
    assert titles.split()[:2] == ["service", "hits"]
    assert sorted(row.split()[0] for row in rows) == ["billing", "skyflow"]


@pytest.mark.usefixtures("client")
def test_services_and_endpoints_are_tables(run: RunCommand) -> None:
    services = run("services", "--search", "fl")
    endpoints = run("endpoints", "--page-size", "3", "--ordering", "-last_seen")

    titles, row = services.output.splitlines()
    assert titles.split() == ["service", "endpoints", "hits", "errors", "error_rate", "first_seen", "last_seen"]
    assert row.split()[:2] == ["skyflow", "2"]
    assert len(endpoints.output.splitlines()) == 4
    assert "GET, POST" in endpoints.output
    assert endpoints.errors == "3 of 4\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kpis", "--error-from", "99"], "error_from: Expected int >= 100, got '99'."),
        (["top", "--sort-by", "name"], "sort_by: Expected hits or errors"),
        (["hourly", "--limit", "5001"], "limit: Expected int <= 5000, got '5001'."),
        (["top", "--group-by", "day"], "group_by: Expected list of service or endpoint"),
        (["daily", "--start", "yesterday"], "start: Expected an ISO 8601 date or time, got 'yesterday'."),
        (["kpis", "--application", "nobody"], "Unknown application: nobody"),
    ],
)
def test_errors_are_those_of_the_route(run: RunCommand, arguments: list[str], message: str) -> None:
    printed = run(*arguments)

    assert printed.code == 1
    assert message in printed.errors


def test_help_explains_options_and_their_defaults(run: RunCommand) -> None:
    printed = " ".join(run("top", "--help").output.split())

    assert "--limit TEXT Rows at most. [default: 20]" in printed
    assert "--service TEXT Of this service only" in printed
    assert "--with-p95 Give each row its 95th percentile." in printed
    assert "--direction [desc|asc]" in printed or "--direction [asc|desc]" in printed
