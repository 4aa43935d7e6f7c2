"""Log lines: JSON or plain text, tracebacks, levels."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.logging import LogFile, make_logger
from kernel.settings import LogSettings
from tests.commands import RunCommand, make_runner
from tests.kernel.fakes import raise_oops
from tests.processes import ROOT, TIERCEL, eventually, make_environment

WRITE_LINES = """
import sys
from pathlib import Path
from kernel.logging import LogFile

file = LogFile(Path(sys.argv[1]), max_bytes=20_000, backups=100)
for number in range(2000):
    file.write(f"{sys.argv[2]} {number} {'x' * (number % 50)}.\\n".encode())
"""


def make_lines(settings: LogSettings, write: Callable[[Any], object]) -> str:
    """Return what a logger writes."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, write_through=True)
    write(make_logger(settings, stream))
    return buffer.getvalue().decode()


def test_json_lines_are_one_object_each() -> None:
    def write(log: Any) -> None:
        log.info("request", status=200, path="/a\nb", home=object)
        log.warning("second")

    first, second = map(msgspec.json.decode, make_lines(LogSettings(format="json"), write).splitlines())

    assert (first["event"], first["level"], first["status"], first["path"]) == ("request", "info", 200, "/a\nb")
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert (second["event"], second["level"]) == ("second", "warning")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_traceback_is_logged_without_local_variables(format_: Any) -> None:
    def write(log: Any) -> None:
        hunter = "".join(("hun", "ter2"))
        try:
            raise_oops(password=hunter)
        except RuntimeError:
            log.exception("failed")

    text = make_lines(LogSettings(format=format_), write)

    assert "RuntimeError: oops" in text
    assert "raise_oops" in text
    assert "hunter2" not in text


def test_console_lines_are_plain_text() -> None:
    text = make_lines(LogSettings(format="console"), lambda log: log.info("request", status=200))

    assert "request" in text
    assert "status=200" in text
    assert "{" not in text


def test_lines_below_the_level_are_not_logged() -> None:
    text = make_lines(LogSettings(level="error"), lambda log: (log.warning("quiet"), log.error("loud")))

    assert "loud" in text
    assert "quiet" not in text


# --- the log file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["json", "console"])
def test_the_file_gets_the_lines_of_the_stream(format_: Any, tmp_path: Path) -> None:
    path = tmp_path / "log" / "tiercel.log"

    text = make_lines(LogSettings(format=format_, file=path), lambda log: log.info("request", request_id="abc"))

    assert path.read_text() == text
    assert "abc" in text


def test_a_full_file_is_renamed_and_the_oldest_is_deleted(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", max_bytes=10, backups=2)

    for number in range(8):
        file.write(f"{number:04}\n".encode())

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "log": "0006\n0007\n",
        "log.1": "0004\n0005\n",
        "log.2": "0002\n0003\n",
        "log.lock": "",
    }


def test_a_file_that_was_moved_away_is_created_again(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", max_bytes=1000, backups=1)
    file.write(b"1\n")
    (tmp_path / "log").rename(tmp_path / "moved")

    file.write(b"2\n")

    assert [(tmp_path / name).read_text() for name in ("moved", "log")] == ["1\n", "2\n"]


@pytest.mark.process
def test_several_processes_that_rotate_the_file_lose_no_line_and_tear_none(tmp_path: Path) -> None:
    path, names = tmp_path / "log", ("a", "b", "c", "d")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE_LINES, str(path), name], env=make_environment(tmp_path / "home"))
        for name in names
    ]
    assert [writer.wait() for writer in writers] == [0] * len(names)

    files = [each for each in tmp_path.iterdir() if each.name != "log.lock"]
    lines = [line for each in files for line in each.read_text().splitlines()]
    expected = [f"{name} {number} {'x' * (number % 50)}." for name in names for number in range(2000)]
    assert len(files) > 10
    assert sorted(lines) == sorted(expected)


def test_a_full_disk_loses_lines_and_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    settings = LogSettings(format="json", file=Path("/dev/full"))
    stream = Path("/dev/full").open("w")  # noqa: SIM115 - it cannot be closed without an error
    log = make_logger(settings, stream)
    log.info("first")
    log.warning("second")
    with pytest.raises(OSError, match="No space"):
        stream.close()

    errors = capsys.readouterr().err
    assert errors.count("/dev/full: log lines are lost: No space left on device") == 1
    assert errors.count("a log line is lost: OSError: [Errno 28]") == 2


@pytest.mark.process
def test_a_line_after_an_incomplete_one_begins_a_line(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from kernel.logging import LogFile

file = LogFile(Path(sys.argv[1]), max_bytes=1000, backups=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (12, resource.RLIM_INFINITY))
file.write(b"12345678\\n")
file.write(b"12345678\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.write(b"next\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert (tmp_path / "log").read_text() == "12345678\n123\nnext\n"
    assert ran.stderr.count("log lines are lost") == 1


def test_a_value_that_cannot_be_encoded_loses_its_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    text = make_lines(LogSettings(format="json"), lambda log: (log.info("bad", path="\udcff"), log.info("good")))

    assert [msgspec.json.decode(line)["event"] for line in text.splitlines()] == ["good"]
    assert "a log line is lost: UnicodeEncodeError" in capsys.readouterr().err


# --- tiercel logs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiercel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Run commands in this process, in ``tmp_path``; none of them needs the database."""
    return make_runner("host=127.0.0.1 port=1", tmp_path, monkeypatch, capsys)


def test_logs_prints_the_last_lines(tiercel: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{number}\n" for number in range(50)))

    ran = tiercel("logs", "-n", "2", TIERCEL_LOG__FILE="log")

    assert (ran.code, ran.output) == (0, "48\n49\n")


@pytest.mark.parametrize(
    ("file", "problem"),
    [("", "there is no log file: set log.file"), ("nowhere", "nowhere: cannot be read: No such file or directory")],
)
def test_logs_without_a_file_exits_1(file: str, problem: str, tiercel: RunCommand) -> None:
    ran = tiercel("logs", TIERCEL_LOG__FILE=file)

    assert ran.code == 1
    assert ran.errors.startswith(f"tiercel: {problem}")


@pytest.mark.parametrize(
    ("file", "line"),
    [("log", "[ok] log: "), ("/proc/none/log", "[PROBLEM] log: /proc/none/log cannot be written: No such file")],
)
def test_check_says_whether_the_file_can_be_written(file: str, line: str, tiercel: RunCommand) -> None:
    ran = tiercel("check", TIERCEL_LOG__FILE=file, TIERCEL_DB__STARTUP_TIMEOUT_S="0")

    assert line in ran.output


@pytest.mark.process
def test_logs_follows_the_file_when_it_is_renamed(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", tmp_path / "seen"
    file = LogFile(path, max_bytes=100, backups=50)
    file.write(b"first\n")
    environment = make_environment(tmp_path / ".tiercel", TIERCEL_LOG__FILE=str(path))
    with seen.open("wb") as output:
        follower = subprocess.Popen([TIERCEL, "logs", "-f"], cwd=tmp_path, env=environment, stdout=output)
    try:
        assert eventually(lambda: seen.read_bytes() == b"first\n")
        written = [b"first\n"]
        for number in range(15):
            for part in "ab":
                written.append(f"{number} {part} {'x' * 40}\n".encode())
                file.write(written[-1])
            assert eventually(lambda: seen.read_bytes() == b"".join(written)), seen.read_text()
    finally:
        follower.terminate()
        follower.wait()
    assert path.with_name("log.5").exists()
