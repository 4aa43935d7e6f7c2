"""Figures of machine and service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.outage import outage
from tests.plugins.observability.events import make_events, post_ingest

# The unit of a figure: the suffix of its name; names without one are counts.
UNITS = re.compile(r"_(bytes|percent|s|ms|\d+m|count)$")
COUNTS = {"pid", "parent_pid", "threads", "open_files", "workers", "routes", "version_number"}


@pytest.fixture(scope="module")
def client(module_serve: Serve) -> Client:
    """A service with all plugins, which no test changes."""
    return module_serve()


def figures(stats: dict[str, Any]) -> set[str]:
    """Return the names of all numbers, those of caches, pool and feed aside."""
    sections = ("cpu", "memory", "disk", "process", "application")
    return {
        name
        for section in sections
        for name, value in stats[section].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


@pytest.mark.parametrize("section", ["cpu", "memory", "disk", "process", "application", "engine", "plugins"])
def test_every_section_is_present(client: Client, section: str) -> None:
    assert client.get("/stats/").json()[section]


def test_every_figure_names_its_unit(client: Client) -> None:
    stats = client.get("/stats/").json()

    assert {name for name in figures(stats) - COUNTS if not UNITS.search(name)} == set()


def test_figures_describe_this_process_and_machine(client: Client) -> None:
    stats = client.get("/stats/").json()

    assert stats["process"]["pid"] == os.getpid()
    assert 0 < stats["process"]["resident_bytes"] < stats["memory"]["total_bytes"]
    assert stats["disk"]["free_bytes"] < stats["disk"]["total_bytes"]
    assert stats["cpu"]["logical_count"] == os.cpu_count()
    assert datetime.fromisoformat(stats["process"]["started_at"]) < datetime.now(UTC)


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Keep one processor busy, with a process that a test need not wait for."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    process.kill()
    process.wait()


@pytest.mark.usefixtures("busy_machine")
def test_the_processors_are_measured_by_the_first_request_of_each_thread(serve: Serve) -> None:
    client = serve()

    def measure() -> float:
        percent: float = client.get("/stats/").json()["cpu"]["used_percent"]
        return percent

    for _ in range(3):
        with ThreadPoolExecutor(1) as new_thread:
            assert 0 < new_thread.submit(measure).result() <= 100


def test_paths_are_text_even_if_they_do_not_exist(serve: Serve, tmp_path: Path) -> None:
    home = tmp_path / "not" / "yet"
    home_dir = serve(home=str(home)).get("/stats/").json()

    assert (home_dir["application"]["home"], home_dir["disk"]["path"]) == (str(home), str(home))


def test_the_database_engine_is_named(client: Client, module_database: str) -> None:
    engine = client.get("/stats/").json()["engine"]

    assert (engine["name"], engine["vendor"], engine["embedded"]) == ("postgresql", "postgresql", False)
    assert f"dbname={engine['database']} " in module_database + " "


def test_plugins_are_listed_with_their_state(serve: Serve) -> None:
    stats = serve(plugins=["system", "observability"], disabled=["observability"]).get("/stats/").json()

    assert [(plugin["name"], plugin["state"]) for plugin in stats["plugins"]] == [
        ("system", "loaded"),
        ("observability", "disabled"),
    ]


def test_caches_and_pool_are_counted(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    for _ in range(2):
        post_ingest(client, make_events(1))

    application = client.get("/stats/").json()["application"]

    series = application["caches"]["observability.series"]
    assert (series["items"], series["hits"]) == (1, 1)
    assert series["misses"] >= 1
    assert application["pool"]["pool_size"] >= 1


def test_without_the_database_the_other_statistics_remain(serve: Serve, database: str) -> None:
    client = serve(db={"pool_timeout_s": 0.2, "connect_timeout_s": 1})

    with outage(database):
        answer = client.get("/stats/")

    assert (answer.status, answer.json()["engine"]) == (200, None)
    assert answer.json()["memory"]["total_bytes"] > 0
