"""Output of commands: tables and progress for people, JSON for scripts."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import click
import msgspec

from kernel.conversion import escape_controls, escape_json
from kernel.datasets import Difference

# Between two lines of progress where standard error is not a terminal.
LINE_INTERVAL_S = 5.0
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
# Of each kind of change in a difference.
_ITEMS_SHOWN_MAX = 20


class ProgressBar(Protocol):
    """Shows the progress of long work, in steps."""

    def advance(self, steps: float) -> None:
        """Add steps that are done."""

    def show(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Set the progress.

        Args:
            done: Steps that are done.
            total: All steps; None if unknown.
            message: The current activity.
        """


class _ProgressLines:
    """Progress as plain lines, one every few seconds."""

    def __init__(self, title: str, total: float | None) -> None:
        self._title = title
        self._total = total
        self._done = 0.0
        self._printed = time.monotonic()

    def advance(self, steps: float) -> None:
        self.show(self._done + steps, self._total)

    def show(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self._done, self._total = done, total
        if time.monotonic() - self._printed >= LINE_INTERVAL_S:
            self._printed = time.monotonic()
            of = f" of {self._total:,.0f} ({self._done / self._total:.0%})" if self._total else ""
            echo(f"{self._title}: {self._done:,.0f}{of}{f', {message}' if message else ''}", err=True)


class _TerminalBar:
    """Progress as a bar of rich on a terminal."""

    def __init__(self, bar: Any, title: str, total: float | None) -> None:
        self._bar = bar
        self._title = title
        self._task = bar.add_task(title, total=total)

    def advance(self, steps: float) -> None:
        self._bar.advance(self._task, steps)

    def show(self, done: float, total: float | None = None, message: str | None = None) -> None:
        title = escape_controls(f"{self._title}: {message}" if message else self._title)
        self._bar.update(self._task, completed=done, total=total, description=title)


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[ProgressBar]:
    """Show progress on standard error until the block ends: a bar on a terminal, else a line every few seconds.

    Args:
        title: The activity.
        total: All steps; None if unknown.
    """
    if not sys.stderr.isatty():
        yield _ProgressLines(title, total)
        return
    # Imported here: it takes a tenth of a second, and most commands do not need it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _TerminalBar(bar, title, total)


def echo(text: str = "", *, err: bool = False) -> None:
    """Print text, with a line end, on standard output.

    Args:
        text: May be several lines. Other control characters are escaped: much of what is printed comes from clients and
            other services.
        err: Whether to print on standard error instead.
    """
    click.echo(escape_controls(text, keep_lines=True), err=err)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on standard output; as plain columns if that is not a terminal. None is an empty cell."""
    texts = [["" if cell is None else escape_controls(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(titles, *texts, strict=True)]
        for row in (titles, *texts):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in texts:
        table.add_row(*map(Text, row))
    Console().print(table)


def format_age(age: timedelta) -> str:
    """Return how long ago something was, in the largest unit that is full: ``5 min ago``."""
    age_s = max(0, int(age.total_seconds()))
    unit, length_s = next((each for each in _UNITS if age_s >= each[1]), _UNITS[-1])
    return f"{age_s // length_s} {unit} ago"


def print_json(value: object) -> None:
    """Print a value as indented JSON on standard output."""
    click.echo(msgspec.json.format(encode_json(value), indent=2))


def print_json_array(values: Iterable[object]) -> None:
    """Print values as an indented JSON array on standard output, each as it comes."""
    separator = "["
    for value in values:
        text = msgspec.json.format(encode_json(value), indent=2)
        click.echo(f"{separator}\n{textwrap.indent(text, '  ')}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def encode_json(value: object) -> str:
    """Return a value as JSON in one line, which does nothing to a terminal."""
    return escape_json(msgspec.json.encode(value, enc_hook=str).decode())


def print_difference(found: Difference, key: str) -> None:
    """Print the difference between two versions of a dataset, with the first changes of each kind.

    Args:
        found: The difference.
        key: The field that identifies an item.
    """
    added, removed, changed = len(found.added), len(found.removed), len(found.changed)
    echo(
        f"{found.dataset}, version {found.from_version} to {found.to_version}: "
        f"{added:,} added, {removed:,} removed, {changed:,} changed, {found.unchanged:,} unchanged"
    )
    _print_lines([f"  + {getattr(item, key)}" for item in found.added[:_ITEMS_SHOWN_MAX]], added)
    _print_lines([f"  - {getattr(item, key)}" for item in found.removed[:_ITEMS_SHOWN_MAX]], removed)
    lines = [
        f"  ~ {each.key}: "
        + ", ".join(f"{name} {encode_json(one.before)} -> {encode_json(one.after)}" for name, one in fields)
        for each in found.changed[:_ITEMS_SHOWN_MAX]
        if (fields := each.fields.items())
    ]
    _print_lines(lines, changed)


def _print_lines(lines: Sequence[str], count: int) -> None:
    for line in lines:
        echo(line)
    if count > len(lines):
        echo(f"    and {count - len(lines):,} more")
