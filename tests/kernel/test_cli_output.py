"""Progress and tables: on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest

from kernel.cli import output
from kernel.cli.output import format_age, print_table, progress


@contextmanager
def terminal(stream: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Replace a standard stream by a terminal; after the block, the list holds its output."""
    monkeypatch.setenv("TERM", "xterm")
    seen: list[str] = []
    near, far = os.openpty()
    with monkeypatch.context() as patch, os.fdopen(far, "w") as file:
        patch.setattr(f"sys.{stream}", file)
        yield seen
    seen.append(_read_all(near))
    os.close(near)


def _read_all(near: int) -> str:
    """Read a terminal whose other end was closed."""
    parts: list[bytes] = []
    with suppress(OSError):  # the end
        while part := os.read(near, 65536):
            parts.append(part)
    return b"".join(parts).decode()


def work(steps: int = 4) -> None:
    """Do something long, in steps."""
    with progress("events", total=steps) as bar:
        for _ in range(steps):
            bar.advance(1)


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal("stderr", monkeypatch) as seen:
        work()

    assert "4/4" in seen[0]
    assert "\x1b[" in seen[0], "it is drawn over itself"


def test_progress_is_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "LINE_INTERVAL_S", 0)

    work()

    lines = [f"events: {done} of 4 ({share}%)" for done, share in ((1, 25), (2, 50), (3, 75), (4, 100))]
    assert capsys.readouterr() == ("", "\n".join(lines) + "\n")


def test_lines_of_progress_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    work(10_000)

    assert capsys.readouterr() == ("", "")


def test_lines_without_a_total_show_the_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "LINE_INTERVAL_S", 0)

    with progress("bytes") as bar:
        bar.show(1_234_567, message="access.log")

    assert capsys.readouterr().err == "bytes: 1,234,567, access.log\n"


def test_a_table_is_plain_columns_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("plugin", "reason"), [("system", None), ("club", "[oops]")])

    assert capsys.readouterr().out == "plugin  reason\nsystem\nclub    [oops]\n"


def test_a_table_on_a_terminal_does_not_interpret_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal("stdout", monkeypatch) as seen:
        print_table(("plugin", "reason"), [("club", "[oops]")])

    assert "[oops]" in seen[0]


@pytest.mark.parametrize(
    ("age_s", "text"), [(-1, "0 s ago"), (59.9, "59 s ago"), (60, "1 min ago"), (7300, "2 h ago"), (172_800, "2 d ago")]
)
def test_an_age_is_shown_in_its_largest_unit(age_s: float, text: str) -> None:
    assert format_age(timedelta(seconds=age_s)) == text
