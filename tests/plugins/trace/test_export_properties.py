"""Whatever goes wrong or changes while Notion is read: it is published as it was, or refused and nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st

from kernel.testing import Client, make_configuration, running
from plugins.trace.export.refresh import ExportError, run_export
from tests.notion.calls import Call, Fault
from tests.notion.faults import (
    cut,
    dropped,
    failing,
    foreign,
    leaving_out,
    limited,
    overloaded,
    refusing_cursor,
    repeating,
    silently_short,
)
from tests.notion.querying import Querying
from tests.notion.server import FakeNotion, running_notion
from tests.notion.workspace import Workspace
from tests.plugins.trace.exports import PATIENCE, PLUGINS
from tests.plugins.trace.judging import judge
from tests.plugins.trace.worlds import SOURCES, World

ROWS_MAX = 7
PAGE_MAX = 3
OPEN: dict[str, Fault] = {
    "limited": limited(),
    "limited, no wait": limited(0),
    "overloaded": overloaded(),
    "failing": failing(500, "internal_server_error"),
    "conflict": failing(409, "conflict_error"),
    "proxy": foreign(502),
    "lost by a proxy": foreign(404),
    "no JSON": foreign(200),
    "cut": cut(),
    "dropped": dropped,
    "cursor": refusing_cursor,
    "unauthorized": failing(401, "unauthorized"),
    "restricted": failing(403, "restricted_resource"),
}
# What nobody can see in the answer itself.
SILENT: dict[str, Callable[[int], Fault]] = {
    "short": lambda number: silently_short(number % PAGE_MAX),
    "left out": leaving_out,
    "repeated": repeating,
}
CHANGES = (
    "make",
    "edit",
    "edit",
    "retitle",
    "trash",
    "restore",
    "move",
    "remove",
    "recolor",
    "recolor",
    "trash_tag",
    "rename",
    "retype",
    "add_source",
    "wait",
)
Event = tuple[int, str, int]
# Of which reading, and which row of it.
Lies = Mapping[int, tuple[str, int]]
Run = tuple[bool, bool, Lies, list[Event]]

numbers = st.integers(0, 59)
# A run of a few rows takes about thirty requests.
moments = st.integers(0, 30)
events = st.tuples(moments, st.sampled_from([*CHANGES, *CHANGES, *OPEN]), numbers)
# A run reads few pages among all its requests.
lies = st.dictionaries(st.integers(0, 4), st.tuples(st.sampled_from(list(SILENT)), numbers), max_size=3)
runs = st.tuples(st.booleans(), st.booleans(), lies, st.lists(events, max_size=8))

NO_LIES: Lies = {}


class Exporting:
    """A service, its Notion, and a world that is exported."""

    def __init__(self, client: Client, notion: FakeNotion, database: str) -> None:
        self._services = client.service.registry.services["trace"]
        self._datasets = client.service.shared.datasets
        self._notion = notion
        self._database = database

    def enter(self, world: World) -> None:
        """Begin with a world, as if nothing had ever been exported."""
        self.world = world
        self.gone: set[str] = set()
        self._notion.workspace = world.workspace
        self._notion.querying = Querying(world.workspace, ROWS_MAX)
        self._notion.querying.page_max = PAGE_MAX
        with psycopg.connect(self._database) as connection:
            connection.execute("TRUNCATE trace.source, trace.source_rows, trace.request_budget")

    def run(
        self, *, full: bool, lies_to_the_count: bool = False, lies: Lies = NO_LIES, script: Sequence[Event] = ()
    ) -> bool:
        """Export, with what happens at which request; judge what became of it, and tell whether it was published."""
        before = self.heads()
        self.world.begin()
        self._script = _Script(self.world, lies_to_the_count, lies, script)
        self._notion.faults = [self._script]
        try:
            certificate = run_export(self._services, full=full)
        except ExportError:
            self.gone |= self.world.left
            assert self.heads() == before
            refusals = [self._datasets.publications(name, 1)[0] for name in SOURCES]
            assert all(each.outcome == "refused" and each.reason for each in refusals)
            return False
        # Who reads what has changed cannot see these; who reads everything can.
        self.gone = self.world.left | (set() if full else self.gone)
        assert [each.rejected for each in certificate.datasets] == [0, 0]
        judge(self.world, self._items("tags"), self._items("features"), self.gone)
        return True

    def go_on(self) -> None:
        """Let happen right after a run what it was too short for."""
        self._script.finish()
        self.gone |= self.world.left

    def heads(self) -> dict[str, int]:
        """Return the versions that serve."""
        return {name: each[0].version for name in SOURCES if (each := self._datasets.versions(name, 1))}

    def _items(self, name: str) -> Sequence[Any]:
        return self._datasets.read(name, as_of=self.heads()[name]).items


class _Script:
    """What happens at which request of a run."""

    def __init__(self, world: World, lies_to_the_count: bool, lies: Lies, events: Sequence[Event]) -> None:
        self._world = world
        self._lies_to_the_count = lies_to_the_count
        self._events = events
        self._lies = lies
        self._readings = -1
        self._requests = -1

    def __call__(self, call: Call) -> None:
        self._requests += 1
        now = [each for each in self._events if each[0] == self._requests]
        self._change(now)
        for _, kind, _ in now:
            if kind in OPEN:
                OPEN[kind](call)
        if self._is_liar(call):
            self._readings += 1
            if lie := self._lies.get(self._readings):
                SILENT[lie[0]](lie[1])(call)

    def _is_liar(self, call: Call) -> bool:
        # A row is hidden from one of two readings: nobody can see what both are silent about. The trash is read once.
        is_count = len(call.query.get("filter_properties", ())) == 1
        return call.is_query and not call.body.get("in_trash") and is_count == self._lies_to_the_count

    def finish(self) -> None:
        """Let happen what no request came for."""
        self._change([each for each in self._events if each[0] > self._requests])

    def _change(self, events: Sequence[Event]) -> None:
        for _, kind, number in events:
            if kind in CHANGES:
                getattr(self._world, kind)(number)
                self._world.record()


@pytest.fixture(scope="module", params=["2026-03-11", "2025-09-03"])
def exporting(module_database: str, request: pytest.FixtureRequest) -> Iterator[Exporting]:
    """A service on each version of the API."""
    with running_notion(FakeNotion(Workspace())) as notion:
        table = {
            **PATIENCE,
            "retry_wait_s": 0.001,
            "token": notion.token,
            "api_url": notion.url,
            "api_version": request.param,
            "sources": SOURCES,
        }
        configuration = make_configuration(
            plugins=PLUGINS,
            db={"url": module_database},
            trace=table,
            log={"level": "error", "requests": False},
        )
        with running(configuration) as client:
            yield Exporting(client, notion, module_database)


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(
    minutes=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    tags=st.integers(0, 4),
    more=st.integers(0, 2),
    runs=st.lists(runs, min_size=1, max_size=3),
    start_s=st.integers(0, 59),
    pause_minutes=st.sampled_from([0, 5]),
)
def test_an_export_says_what_was_there_or_nothing(
    exporting: Exporting,
    minutes: list[int],
    tags: int,
    more: int,
    runs: list[Run],
    start_s: int,
    pause_minutes: int,
) -> None:
    exporting.enter(World(minutes, tags, more))
    exporting.world.workspace.wait(seconds=start_s)

    for full, lies_to_the_count, lies, script in runs:
        published = exporting.run(full=full, lies_to_the_count=lies_to_the_count, lies=lies, script=script)
        hypothesis.event(f"published: {published}")
        exporting.go_on()
        exporting.world.workspace.wait(minutes=pause_minutes)
    assert exporting.run(full=exporting.world.settle()), "nothing stands in the way any more"


@pytest.mark.parametrize("target", [0, 1])
def test_a_row_that_is_moved_at_any_moment_is_not_lost(exporting: Exporting, target: int) -> None:
    is_moved, at = True, 0
    while is_moved:
        world = World([0], tags=0, more=1)
        places = [world.features, *world.added]
        page = next(iter(world.features.pages.values()))
        world.workspace.move(page, places[1 - target])
        exporting.enter(world)

        assert exporting.run(full=True, script=[(at, "move", target)])

        is_moved, at = page.data_source_id == places[target].id, at + 1
    assert at > 10
