"""Whatever fails or changes during an export: what is published existed during the run, or nothing is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st

from kernel.testing import Client, make_configuration, running
from plugins.trace.jobs import ExportError, run_export
from tests.notion.faults import (
    disconnected,
    error_response,
    expired_cursor,
    omitting_row,
    overloaded,
    proxy_response,
    rate_limited,
    repeating_row,
    silently_truncated,
    truncated,
)
from tests.notion.queries import QueryEngine
from tests.notion.server import Call, FakeNotion, Fault, running_notion
from tests.notion.workspace import Workspace
from tests.plugins.trace.factories import PLUGINS, trace_table
from tests.plugins.trace.oracles import SOURCES, RecordedWorkspace, assert_published_matches

ROWS_MAX = 7
PAGE_MAX = 3
VISIBLE_FAULTS: dict[str, Fault] = {
    "limited": rate_limited(),
    "limited, no wait": rate_limited(0),
    "overloaded": overloaded(),
    "failing": error_response(500, "internal_server_error"),
    "conflict": error_response(409, "conflict_error"),
    "proxy": proxy_response(502),
    "404 of a proxy": proxy_response(404),
    "not JSON": proxy_response(200),
    "cut": truncated(),
    "dropped": disconnected,
    "cursor": expired_cursor,
    "unauthorized": error_response(401, "unauthorized"),
    "restricted": error_response(403, "restricted_resource"),
}
# Faults that leave no sign in the response.
SILENT_FAULTS: dict[str, Callable[[int], Fault]] = {
    "short": lambda number: silently_truncated(number % PAGE_MAX),
    "left out": omitting_row,
    "repeated": repeating_row,
}
CHANGES = (
    "add_feature",
    "edit_feature",
    "edit_feature",
    "rename_feature",
    "trash_feature",
    "restore",
    "move_feature",
    "remove_feature",
    "edit_tag",
    "edit_tag",
    "trash_tag",
    "rename_column",
    "change_column_type",
    "add_source",
    "wait",
)
# Before which request, what happens, and a number that chooses how.
Event = tuple[int, str, int]
# By number of a query: the silent fault, and the row that it concerns.
SilentFaults = Mapping[int, tuple[str, int]]
Run = tuple[bool, bool, SilentFaults, list[Event]]

numbers = st.integers(0, 59)
# A run of a few rows takes about thirty requests.
request_numbers = st.integers(0, 30)
events = st.tuples(request_numbers, st.sampled_from([*CHANGES, *CHANGES, *VISIBLE_FAULTS]), numbers)
# Few requests of a run are queries.
silent_faults = st.dictionaries(st.integers(0, 4), st.tuples(st.sampled_from(list(SILENT_FAULTS)), numbers), max_size=3)
runs = st.tuples(st.booleans(), st.booleans(), silent_faults, st.lists(events, max_size=8))

NO_SILENT_FAULTS: SilentFaults = {}


class ExportRunner:
    """Exports recorded workspaces with one service, and verifies what is published."""

    def __init__(self, client: Client, notion: FakeNotion, database: str) -> None:
        self._services = client.service.registry.services["trace"]
        self._datasets = client.service.shared.datasets
        self._notion = notion
        self._database = database

    def use(self, recorded: RecordedWorkspace) -> None:
        """Start with a workspace, as if nothing had been exported before."""
        self.recorded = recorded
        self.vanished: set[str] = set()
        self._notion.workspace = recorded.workspace
        self._notion.query_engine = QueryEngine(recorded.workspace, ROWS_MAX)
        self._notion.query_engine.page_max = PAGE_MAX
        with psycopg.connect(self._database) as connection:
            connection.execute("TRUNCATE trace.source, trace.source_rows, trace.request_budget")

    def run(
        self,
        *,
        full: bool,
        faults_in_count: bool = False,
        silent_faults: SilentFaults = NO_SILENT_FAULTS,
        events: Sequence[Event] = (),
    ) -> bool:
        """Export while faults and changes are injected; verify the result, and tell whether it was published."""
        before = self.versions()
        self.recorded.start_recording()
        self._script = _Script(self.recorded, faults_in_count, silent_faults, events)
        self._notion.faults = [self._script]
        try:
            report = run_export(self._services, full=full)
        except ExportError:
            self.vanished |= self.recorded.vanished
            assert self.versions() == before
            refusals = [self._datasets.publications(name, 1)[0] for name in SOURCES]
            assert all(each.outcome == "refused" and each.reason for each in refusals)
            return False
        # Only a full read notices rows that vanished before it.
        self.vanished = self.recorded.vanished | (set() if full else self.vanished)
        if faults_in_count:
            # Where a page came after its new source was read, and the count omits it, nothing reveals it either.
            self.vanished |= self.recorded.moved
        assert [each.rejected for each in report.datasets] == [0, 0]
        assert_published_matches(self.recorded, self._items("tags"), self._items("features"), self.vanished)
        return True

    def finish_events(self) -> None:
        """Apply the changes of the last run for which it had too few requests."""
        self._script.finish()
        self.vanished |= self.recorded.vanished

    def versions(self) -> dict[str, int]:
        """Return the versions that serve."""
        return {name: each[0].version for name in SOURCES if (each := self._datasets.versions(name, 1))}

    def _items(self, name: str) -> Sequence[Any]:
        return self._datasets.read(name, as_of=self.versions()[name]).items


class _Script:
    """Injects faults and changes into the requests of one run."""

    def __init__(
        self, recorded: RecordedWorkspace, faults_in_count: bool, silent_faults: SilentFaults, events: Sequence[Event]
    ) -> None:
        self._recorded = recorded
        self._faults_in_count = faults_in_count
        self._events = events
        self._silent_faults = silent_faults
        self._query_number = -1
        self._request_number = -1

    def __call__(self, call: Call) -> None:
        self._request_number += 1
        now = [each for each in self._events if each[0] == self._request_number]
        self._change(now)
        for _, kind, _ in now:
            if kind in VISIBLE_FAULTS:
                VISIBLE_FAULTS[kind](call)
        if self._may_fail_silently(call):
            self._query_number += 1
            if silent := self._silent_faults.get(self._query_number):
                SILENT_FAULTS[silent[0]](silent[1])(call)

    def _may_fail_silently(self, call: Call) -> bool:
        # Of the two passes over a data source only one: nothing can reveal a row that both omit, nor one of the trash.
        is_count = len(call.query.get("filter_properties", ())) == 1
        return call.is_query and not call.body.get("in_trash") and is_count == self._faults_in_count

    def finish(self) -> None:
        """Apply the changes that no request was left for."""
        self._change([each for each in self._events if each[0] > self._request_number])

    def _change(self, events: Sequence[Event]) -> None:
        for _, kind, number in events:
            if kind in CHANGES:
                getattr(self._recorded, kind)(number)
                self._recorded.record()


@pytest.fixture(scope="module", params=["2026-03-11", "2025-09-03"])
def runner(module_database: str, request: pytest.FixtureRequest) -> Iterator[ExportRunner]:
    """A service that uses one version of Notion's API."""
    with running_notion(FakeNotion(Workspace())) as notion:
        configuration = make_configuration(
            plugins=PLUGINS,
            db={"url": module_database},
            trace=trace_table(notion, SOURCES, retry_wait_s=0.001, api_version=request.param),
            log={"level": "error", "requests": False},
        )
        with running(configuration) as client:
            yield ExportRunner(client, notion, module_database)


@pytest.mark.slow
@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(
    minutes=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    tags=st.integers(0, 4),
    more=st.integers(0, 2),
    runs=st.lists(runs, min_size=1, max_size=3),
    start_s=st.integers(0, 59),
    pause_minutes=st.sampled_from([0, 5]),
)
def test_an_export_publishes_states_that_existed_during_the_run_or_is_refused(
    runner: ExportRunner,
    minutes: list[int],
    tags: int,
    more: int,
    runs: list[Run],
    start_s: int,
    pause_minutes: int,
) -> None:
    runner.use(RecordedWorkspace(minutes, tags, more))
    runner.recorded.workspace.wait(seconds=start_s)

    for full, faults_in_count, silent_faults, events in runs:
        published = runner.run(full=full, faults_in_count=faults_in_count, silent_faults=silent_faults, events=events)
        hypothesis.event(f"published: {published}")
        runner.finish_events()
        runner.recorded.workspace.wait(minutes=pause_minutes)
    assert runner.run(full=runner.recorded.restore_columns()), "refused although nothing is wrong any more"


@pytest.mark.slow
@pytest.mark.parametrize("target", [0, 1])
def test_a_row_that_is_moved_at_any_moment_of_an_export_is_not_lost(runner: ExportRunner, target: int) -> None:
    is_moved, request_number = True, 0
    while is_moved:
        recorded = RecordedWorkspace([0], tags=0, more=1)
        sources = [recorded.features, *recorded.added]
        page = next(iter(recorded.features.pages.values()))
        recorded.workspace.move(page, sources[1 - target])
        runner.use(recorded)

        assert runner.run(full=True, events=[(request_number, "move_feature", target)])

        is_moved, request_number = page.data_source_id == sources[target].id, request_number + 1
    assert request_number > 10
