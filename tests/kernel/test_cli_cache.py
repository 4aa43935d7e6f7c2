"""``tiercel cache``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel.testing import Client
from tests.applications import PLUGINS, publish_demo
from tests.commands import RunCommand, make_runner
from tests.conftest import Serve
from tests.processes import eventually


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands on the test's database."""
    return make_runner(database, tmp_path, monkeypatch, capsys)


@pytest.fixture
def warm(serve: Serve) -> Client:
    """A service with two cached responses."""
    client = serve(plugins=PLUGINS)
    publish_demo(client)
    for application in ("", "skyflow/"):
        assert client.get(f"/trace/public/{application}tiers/").status == 200
    return client


def cached_names(client: Client) -> set[str]:
    """Return the names of the cached responses of a service."""
    return {name for name in client.service.shared.cache.names() if name.startswith("trace_")}


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ((), set()),
        (("trace_*",), set()),
        (("trace_matrix_data",), {"trace_matrix_skyflow_data"}),
        (("club_*",), {"trace_matrix_data", "trace_matrix_skyflow_data"}),
        (("trace_matrix_data", "club_*", "trace_matrix_sky*"), set()),
    ],
)
def test_clear_removes_matching_names_in_a_running_service(
    tiercel: RunCommand, warm: Client, patterns: tuple[str, ...], left: set[str]
) -> None:
    ran = tiercel("cache", "clear", *patterns, "--json")

    assert (ran.code, ran.json()) == (0, {"patterns": list(patterns) or ["*"], "processes": 1})
    assert eventually(lambda: cached_names(warm) == left)


def test_clear_prints_the_number_of_processes(tiercel: RunCommand) -> None:
    assert tiercel("cache", "clear").output == "0 processes were told to clear *.\n"


def test_clear_rejects_a_pattern_that_is_too_long(tiercel: RunCommand) -> None:
    ran = tiercel("cache", "clear", "trace_*", "x" * 2000)

    assert ran.code == 2
    assert "at most" in ran.errors


def test_stats_are_those_of_the_running_processes(tiercel: RunCommand, warm: Client) -> None:
    (found,) = tiercel("cache", "stats", "--json").json()

    assert found["pid"] == os.getpid()
    assert found["caches"]["datasets"]["items"] > 0
    assert {"trace_matrix_data", "trace_matrix_skyflow_data"} <= found["names"].keys()


def test_stats_are_printed_as_a_table(tiercel: RunCommand, warm: Client) -> None:
    ran = tiercel("cache", "stats")

    words = [line.split() for line in ran.output.splitlines()]
    assert any(str(os.getpid()) in row and "datasets" in row for row in words)
    assert any("trace_matrix_skyflow_data" in row for row in words)


def test_without_a_running_service_there_are_no_stats(tiercel: RunCommand) -> None:
    ran = tiercel("cache", "stats", "--timeout-s", "0.1")

    assert (ran.code, ran.output) == (0, "No process answered: the service does not run.\n")
