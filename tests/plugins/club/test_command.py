"""``tiercel club refresh``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from plugins.club.settings import Source
from tests.applications import publish_demo
from tests.commands import Ran, RunCommand, make_runner
from tests.conftest import Serve
from tests.plugins.club.factories import PLUGINS, refresh, serve_club, table
from tests.plugins.club.fakes import Exchange, FakeApi, fixed, member, metric, missing
from tests.plugins.club.fetching import members, source

Tiercel = Callable[..., Ran]


@pytest.fixture
def run(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands on the test's database."""
    made = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    monkeypatch.setenv("TIERCEL_CLUB__RETRIES", "0")
    return made


@pytest.fixture
def tiercel(run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Tiercel:
    """Run commands on the test's database, with these sources."""

    def start(sources: dict[str, Source], *arguments: str) -> Ran:
        monkeypatch.setenv("TIERCEL_CLUB__SOURCES", msgspec.json.encode(table(sources)["sources"]).decode())
        return run(*arguments)

    return start


@pytest.fixture
def sources(api: FakeApi) -> dict[str, Source]:
    """A working source of each dataset."""
    api.routes |= {"/metrics": fixed([metric("joined", 7)]), "/members": fixed([member("ada"), member("bo", "x")])}
    return {"heroes": source(api), "flow": members(api)}


@pytest.mark.parametrize("words", [("club", "refresh"), ("refresh_club",)])
def test_a_refresh_prints_a_report_of_sources_and_datasets(
    tiercel: Tiercel, sources: dict[str, Source], words: tuple[str, ...]
) -> None:
    ran = tiercel(sources, *words)

    assert ran.code == 0, ran.errors
    rows = [line.split() for line in ran.output.splitlines()]
    assert rows[0] == ["source", "dataset", "state", "items", "rejected", "ms", "reason"]
    assert [row[:5] for row in rows[1:3]] == [
        ["heroes", "hero-metrics", "fetched", "1", "0"],
        ["flow", "most-present", "fetched", "1", "1"],
    ]
    assert "hero-metrics: published, version 1, 1 items" in ran.output
    assert "most-present: published, version 1, 1 items, 1 rejected" in ran.output


def test_progress_is_printed_on_standard_error(tiercel: Tiercel, sources: dict[str, Source], api: FakeApi) -> None:
    # Long enough for the other to be told as done.
    def late(exchange: Exchange) -> None:
        api.ending.wait(0.6)
        exchange.json([member("ada")])

    api.routes["/members"] = late

    ran = tiercel(sources, "club", "refresh")

    assert "1 of 2: heroes 1 items, flow fetching" in ran.errors
    assert "fetching" not in ran.output


def test_a_failing_source_exits_with_1_and_the_others_are_published(
    tiercel: Tiercel, sources: dict[str, Source], api: FakeApi
) -> None:
    api.routes["/members"] = missing

    ran = tiercel(sources, "club", "refresh", "--json")

    assert ran.code == 1
    report = ran.json()
    assert [each["state"] for each in report["sources"]] == ["fetched", "failed"]
    assert [each["outcome"] for each in report["datasets"]] == ["published", "refused"]


def test_a_refresh_prints_why_every_source_failed(tiercel: Tiercel, sources: dict[str, Source], api: FakeApi) -> None:
    api.routes.clear()

    ran = tiercel(sources, "club", "refresh")

    assert ran.code == 1
    assert "tiercel: every source failed: heroes: " in ran.errors
    rows = [line.split()[:4] for line in ran.output.splitlines()]
    assert rows[1:] == [["heroes", "hero-metrics", "failing", "0"], ["flow", "most-present", "failing", "0"]]


def test_sources_are_read_from_the_file_given_with_config(
    run: RunCommand, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.routes["/metrics"] = fixed([metric("joined", 7)])
    lines = ["[club.sources.heroes]", f'url = "{api.url}/metrics"', 'dataset = "hero-metrics"']
    (tmp_path / "club.toml").write_text("\n".join(lines))

    # The option sets it; what is set here is undone.
    monkeypatch.setenv("TIERCEL_CONFIG", "")

    ran = run("--config", "club.toml", "club", "refresh")

    assert ran.code == 0, ran.errors
    assert "hero-metrics: published" in ran.output


def test_a_refresh_without_sources_prints_a_note(tiercel: Tiercel) -> None:
    ran = tiercel({}, "club", "refresh")

    assert (ran.code, ran.output) == (0, "")
    assert ran.errors == "no sources are configured: imported data are served.\n"
    assert tiercel({}, "club", "refresh", "--json").json() == {"sources": [], "datasets": []}


def test_apps_test_passes_for_every_endpoint_and_application(tiercel: Tiercel, serve: Serve) -> None:
    publish_demo(serve(plugins=PLUGINS))

    ran = tiercel({}, "apps", "test", "--json")

    assert ran.code == 0, ran.output
    passed = {outcome["path"] for outcome in ran.json() if outcome["result"] == "passed"}
    assert {"/club/public/hero-metrics/", "/club/public/skyflow/features/", "/club/public/nexus/index/"} <= passed
    assert [path for path in passed if path.startswith("/club/public/skyflow/features/") and path.count("/") == 6]


def test_data_export_writes_the_index_file(
    tiercel: Tiercel, serve: Serve, sources: dict[str, Source], tmp_path: Path
) -> None:
    refresh(serve_club(serve, sources))

    ran = tiercel(sources, "data", "export", "out")

    assert ran.code == 0, ran.errors
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["club_index.json", "flow-most-present.json", "hero-metrics.json"]


def test_a_refresh_writes_the_files_if_there_is_a_folder_for_them(
    tiercel: Tiercel, sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIERCEL_DATASETS__FILES_DIR", "static/data")

    ran = tiercel(sources, "club", "refresh")

    assert ran.code == 0, ran.errors
    names = {path.name for path in (tmp_path / "static" / "data").glob("[!.]*")}
    assert {"club_index.json", "flow-most-present.json", "hero-metrics.json"} <= names


def test_a_refresh_of_one_source_leaves_the_others_alone(
    tiercel: Tiercel, sources: dict[str, Source], api: FakeApi
) -> None:
    ran = tiercel(sources, "club", "refresh", "flow")

    assert ran.code == 0, ran.errors
    assert api.paths() == ["/members"]
    assert [line.split()[0] for line in ran.output.splitlines()] == ["source", "flow", "most-present:"]
    unknown = tiercel(sources, "club", "refresh", "nobody")
    assert unknown.code == 1
    assert "no source is named nobody; sources: heroes, flow" in unknown.errors
