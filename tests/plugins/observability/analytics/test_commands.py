"""``tiercel observability kpis``, ``top``, ``hourly`` and ``daily``."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.testing import Client
from tests.commands import RunCommand, make_runner
from tests.conftest import Serve
from tests.plugins.observability.analytics.computing import ingest, parts_of, random_events
from tests.plugins.observability.engines import run_statement
from tests.plugins.observability.events import make_event

WINDOW = {"start": "2025-12-12", "end": "2025-12-14"}
ROUTES = {"kpis": "kpis", "top": "top-endpoints", "hourly": "hourly", "daily": "daily"}
FRESH = "fresh_until"


@pytest.fixture
def run(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run a command of this plugin."""
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    return lambda *arguments: run("observability", *arguments, TIERCEL_LOG__LEVEL="error")


@pytest.mark.parametrize(
    ("command", "parameters"),
    [
        ("kpis", {}),
        ("kpis", {"approx": "true", "percentiles": "50,99.9", "service": "BILLING", "method": "get"}),
        ("kpis", {"error_from": "400", "endpoint": "/a", "granularity": "daily", "application": "skyflow"}),
        ("top", {}),
        ("top", {"sort_by": "p95_latency_ms", "direction": "asc", "limit": "2", "with_p95": "true"}),
        ("hourly", {"limit": "7"}),
        ("daily", {"service": "skyflow", "approx": "true"}),
    ],
)
def test_json_is_what_the_route_answers(
    serve: Serve, run: RunCommand, command: str, parameters: dict[str, str]
) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, random_events(100))
    given = WINDOW | parameters
    query = "&".join(f"{name}={value}" for name, value in given.items())
    options = [
        part
        for name, value in given.items()
        for part in [f"--{name.replace('_', '-')}", *([] if value == "true" else [value])]
    ]

    answered = client.get(f"/api/requests/{ROUTES[command]}/?{query}").json()
    printed = run(command, *options, "--json")

    assert printed.code == 0, printed.errors
    shown = printed.json()
    if command == "kpis":
        del answered[FRESH], shown[FRESH]
    assert shown == answered


def test_tables_show_the_same_rows(serve: Serve, run: RunCommand) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, random_events(100))
    answer = client.get("/api/requests/top-endpoints/?start=2025-12-12&end=2025-12-14")
    rows = answer.json()

    printed = run("top", "--start", "2025-12-12", "--end", "2025-12-14")

    titles, *lines = printed.output.splitlines()
    assert titles.split()[:3] == ["service", "endpoint", "hits"]
    assert [line.split()[:3] for line in lines] == [[row["service"], row["endpoint"], str(row["hits"])] for row in rows]
    assert printed.errors == f"source: {answer.headers['x-source']}\nfresh_until: {answer.headers['x-fresh-until']}\n"


@pytest.fixture
def client_without_first_day(serve: Serve) -> Client:
    """A service whose retention has removed the first of three days."""
    client = serve(observability={"log_own_requests": False})
    ingest(client, random_events(100))
    parts_of(client).rollups.refresh()
    run_statement(client, "UPDATE observability.retention SET from_time = '2025-12-13 00:00Z'")
    # An hour that rollups do not know, so that this is not the time of each question.
    ingest(client, [make_event(time="2025-12-14T10:20:00Z")])
    return client


@pytest.mark.parametrize(
    ("arguments", "within"),
    [
        (["top", "--with-p95", "--approx"], "p95_max_relative_error: 0.01\n"),
        (["hourly"], ""),
        (["daily", "--approx"], "p95_max_relative_error: 0.01\n"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.usefixtures("client_without_first_day")
def test_what_there_is_to_say_about_rows_stands_beside_them(
    run: RunCommand, arguments: list[str], within: str, options: list[str]
) -> None:
    printed = run(*arguments, "--start", "2025-12-12", "--end", "2025-12-14", *options)

    source = "hourly" if arguments == ["hourly"] else "daily"
    assert printed.errors == (
        f"source: {source}\n"
        "fresh_until: 2025-12-14T10:00:00Z\n"
        "covered: 2025-12-13T00:00:00Z/2025-12-15T00:00:00Z\n" + within
    )


@pytest.mark.usefixtures("client_without_first_day")
def test_kpis_say_what_they_cover(run: RunCommand) -> None:
    printed = run("kpis", "--start", "2025-12-12", "--end", "2025-12-14")

    figures = dict(line.split(maxsplit=1) for line in printed.output.splitlines())
    assert figures["covered"] == "2025-12-13T00:00:00Z to 2025-12-15T00:00:00Z"


def test_kpis_are_a_table_of_figures(serve: Serve, run: RunCommand) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, random_events(100))

    printed = run("kpis", "--start", "2025-12-12", "--end", "2025-12-14", "--percentiles", "50")

    figures = dict(line.split(maxsplit=1) for line in printed.output.splitlines())
    assert (figures["hits"], figures["source"]) == ("100", "hourly")
    assert figures["p50_latency_ms"].endswith("(raw)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kpis", "--error-from", "99"], "error_from: Expected int >= 100, got '99'."),
        (["top", "--sort-by", "name"], "sort_by: Expected hits or errors"),
        (["hourly", "--limit", "5001"], "limit: Expected int <= 5000, got '5001'."),
        (["daily", "--start", "yesterday"], "start: Expected an ISO 8601 date or time, got 'yesterday'."),
        (["kpis", "--application", "nobody"], "Unknown application: nobody"),
    ],
)
def test_what_is_wrong_is_said_as_the_route_says_it(run: RunCommand, arguments: list[str], message: str) -> None:
    printed = run(*arguments)

    assert printed.code == 1
    assert message in printed.errors


def test_help_tells_what_an_option_means_and_what_it_is_by_default(run: RunCommand) -> None:
    printed = " ".join(run("top", "--help").output.split())

    assert "--limit TEXT Rows at most. [default: 20]" in printed
    assert "--service TEXT Of this service only" in printed
    assert "--with-p95 Give each row its 95th percentile." in printed
    assert "--direction [desc|asc]" in printed or "--direction [asc|desc]" in printed
