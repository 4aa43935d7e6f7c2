"""Exports from Notion: our own share of their time, and what memory they take."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kernel.cli.output import progress
from kernel.embedded.server import EmbeddedServer
from plugins.trace.settings import TraceSettings
from tests.bench.figures import Figure
from tests.bench.notion_export import Took
from tests.processes import ROOT

ROWS = 25_000
EDITED = 100
# What Notion takes for a page of a hundred rows.
LATENCY_S = 0.25
SIZES = (5_000, 25_000)
SIZES_FULL = (*SIZES, 100_000)
# So few rows that what they take does not count: the rest is what any export takes.
NEXT_TO_NONE = 100
_UNHURRIED = {"requests_per_minute": 600_000, "burst": 1000}


def figures(full: bool) -> Iterator[Figure]:
    """Measure full and incremental exports of 25,000 rows, and the peak of memory by the number of rows."""
    yield from _times(hurried=not full)
    yield from _memory(SIZES_FULL if full else SIZES)


def _times(*, hurried: bool) -> Iterator[Figure]:
    with _exports(ROWS, LATENCY_S, _UNHURRIED if hurried else {}) as exports:
        whole, changes = exports.run("full"), exports.run("changes", EDITED)
    pace = f"{_budget_s(whole):.0f} s at the default budget" if hurried else "paced by the default budget"
    yield Figure(
        f"own share of the time of a full export, {ROWS:,} rows",
        whole.cpu_s / whole.wall_s,
        0.1,
        "at most",
        detail=f"{whole.cpu_s:.1f} s of {whole.wall_s:.0f} s; {LATENCY_S * 1000:.0f} ms an answer; "
        f"{whole.requests} requests, {pace}; {whole.received_bytes / 1e6:.0f} MB",
    )
    yield Figure(
        f"incremental export, {EDITED} of {ROWS:,} rows edited",
        changes.wall_s / whole.wall_s,
        0.2,
        "at most",
        detail=f"{changes.wall_s:.1f} s, own {changes.cpu_s:.1f} s; {changes.requests} requests; "
        f"{changes.received_bytes / 1e6:.1f} MB; {changes.peak_bytes / 1e6:.0f} MB of memory",
    )


def _memory(sizes: tuple[int, ...]) -> Iterator[Figure]:
    rest_bytes = _peak(NEXT_TO_NONE).peak_bytes
    beyond: list[float] = []
    for rows in sizes:
        took = _peak(rows)
        each, snapshot = (size / rows for size in (took.peak_bytes - rest_bytes, took.snapshot_bytes))
        beyond.append(each - snapshot)
        detail = f"{each:,.0f} bytes a row, {snapshot:,.0f} in the snapshot; {took.peak_bytes / 1e6:.0f} MB in all"
        yield Figure(
            f"peak memory of an export, {rows:,} rows, in snapshots", each / snapshot, 5.0, "at most", detail=detail
        )
    detail = f"{' and '.join(f'{each:,.0f}' for each in beyond)} bytes a row"
    name = f"memory a row beyond the snapshot, {sizes[-1]:,} rows against {sizes[0]:,}"
    yield Figure(name, beyond[-1] / beyond[0], 1.1, "at most", detail=detail)


def _peak(rows: int) -> Took:
    """Export everything twice: the second time there is something to compare with, as there is every night."""
    with _exports(rows, 0.0, _UNHURRIED) as exports:
        exports.run("full")
        return exports.run("full")


def _budget_s(took: Took) -> float:
    settings = TraceSettings()
    return (took.requests - settings.burst) * 60 / (settings.requests_per_minute - settings.burst + 1)


class _Exports:
    """Exports of one fake Notion into one database, each in a separate process."""

    def __init__(self, notion: subprocess.Popen[str], conninfo: str, pace: dict[str, Any]) -> None:
        self._notion = notion
        self._conninfo = conninfo
        self._table = {**json.loads(self._ask("0")), **pace}

    def run(self, mode: str, edited: int = 0) -> Took:
        """Export ``full`` or ``changes``, after so many rows were edited."""
        self._ask(str(edited))
        command = [sys.executable, "-m", "tests.bench.notion_export", self._conninfo, json.dumps(self._table), mode]
        with progress(f"{mode} export"):
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return msgspec.json.decode(done.stdout, type=Took)

    def _ask(self, edited: str) -> str:
        if self._notion.stdin is None or self._notion.stdout is None:
            raise RuntimeError("the fake Notion has no pipes")
        self._notion.stdin.write(f"{edited}\n")
        self._notion.stdin.flush()
        return self._notion.stdout.readline()


@contextmanager
def _exports(rows: int, latency_s: float, pace: dict[str, Any]) -> Iterator[_Exports]:
    command = [sys.executable, "-m", "tests.bench.notion_fake", str(rows), str(latency_s)]
    with (
        tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder,
        EmbeddedServer(Path(folder)) as server,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as notion,
    ):
        yield _Exports(notion, server.conninfo, pace)
