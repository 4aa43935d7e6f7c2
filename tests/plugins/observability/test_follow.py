"""``tiercel observability follow``: logs that grow, are rotated, truncated, compressed and replaced."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from kernel.testing import Client
from plugins.observability.importer.follow import ROTATED_QUIET_S, FollowedFile, Positions
from plugins.observability.importer.parsers import AUTO
from plugins.observability.importer.service import FileReport, Importer
from tests.outage import outage
from tests.plugins.observability.accesslogs import combined_line, import_text, run_import
from tests.plugins.observability.analytics.factories import container_of
from tests.processes import TIERCEL, eventually, make_environment

DEADLINE_S = 60.0


def lines(*names: str) -> bytes:
    """Return a line for a request to each path; equal names make identical lines."""
    return b"".join(combined_line(request=f"GET /{name} HTTP/1.1") + b"\n" for name in names)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(content)


class Followed:
    """A log that is followed as far as a test says.

    Attributes:
        path: Of the log.
        now_s: The time that the follower sees.
        stopping: Set it to end.
    """

    def __init__(self, client: Client, path: Path) -> None:
        self._client = client
        self.path = path
        self.now_s = 1000.0
        self.stopping = threading.Event()
        self.said: list[str] = []
        self._file: FollowedFile | None = None
        self.start()

    def start(self, *, format_name: str = "combined", new_only: bool = False) -> None:
        """Begin, as a new process does after one that was killed."""
        self.close()
        container = container_of(self._client)
        importer = Importer(container.ingest, 100, container.now, say=self.said.append)
        self.report = FileReport(str(self.path), format_name)
        self._file = FollowedFile(
            self.path,
            "shop",
            importer,
            Positions(container.db, 0),
            self.report,
            self.stopping,
            new_only=new_only,
            clock_s=lambda: self.now_s,
        )

    def read(self, *, quiet_s: float = 0.0) -> None:
        """Read all that there is; then again after a time without more."""
        while self._file is not None and self._file.poll():
            pass
        if quiet_s:
            self.now_s += quiet_s
            self.read()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def paths(self) -> Counter[str]:
        """Return how many requests for each path are stored."""
        results = self._client.get("/api/requests/?page_size=1000").json()["results"]
        return Counter(each["endpoint"].removeprefix("/") for each in results)


@pytest.fixture
def log(client: Client, tmp_path: Path) -> Iterator[Followed]:
    followed = Followed(client, tmp_path / "access.log")
    yield followed
    followed.close()


def rotate(path: Path, to: str = "access.log.1") -> Path:
    return path.rename(path.with_name(to))


def test_lines_are_stored_as_they_come(log: Followed) -> None:
    log.read()
    append(log.path, lines("a", "b"))
    log.read()
    append(log.path, lines("c"))
    log.read()

    assert log.paths() == Counter("abc")
    assert log.said == [f"{log.path}: there is no such file yet"]


def test_a_line_waits_for_its_end(log: Followed) -> None:
    line = lines("half")
    append(log.path, lines("a") + line[:70])
    log.read()
    assert log.paths() == Counter("a")

    append(log.path, line[70:])
    log.read()

    assert log.paths() == Counter(["a", "half"])


def test_a_rotated_log_is_read_to_its_end(log: Followed) -> None:
    append(log.path, lines("a"))
    log.read()
    old = rotate(log.path)
    append(log.path, lines("new"))
    append(old, lines("b"))
    log.read()
    # The server has not opened the new one yet.
    append(old, lines("c") + lines("last")[:-1])
    log.read(quiet_s=ROTATED_QUIET_S)

    assert log.paths() == Counter(["a", "b", "c", "last", "new"])


def test_a_truncated_log_is_read_from_its_beginning(log: Followed) -> None:
    append(log.path, lines("a", "b", "c"))
    log.read()
    os.truncate(log.path, 0)
    append(log.path, lines("d"))
    log.read()
    os.truncate(log.path, 0)
    # It is as long as before when it is looked at again.
    append(log.path, lines("e"))
    log.read()

    assert log.paths() == Counter("abcde")


def test_identical_lines_are_as_many_as_they_were_written(log: Followed) -> None:
    append(log.path, lines("a", "a"))
    log.read()
    rotate(log.path)
    append(log.path, lines("a"))
    log.read(quiet_s=ROTATED_QUIET_S)
    log.start()
    append(log.path, lines("a", "a"))
    log.read()

    assert log.paths() == Counter(a=5)


def test_a_new_process_goes_on_where_the_last_one_stopped(log: Followed) -> None:
    append(log.path, lines("a", "b"))
    log.read()
    append(log.path, lines("c"))
    log.start()
    log.read()

    assert log.paths() == Counter("abc")
    assert log.report.inserted == 1
    assert log.report.duplicates == 0


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_what_was_rotated_meanwhile_is_read(log: Followed, compress: bool) -> None:
    append(log.path, lines("a", "a"))
    log.read()
    append(log.path, lines("a", "b"))
    first = rotate(log.path, "access.log.2")
    append(log.path, lines("c"))
    second = rotate(log.path, "access.log.1")
    append(log.path, lines("a", "d"))
    # An older one, and one of another log.
    shutil.copy(first, log.path.with_name("access.log.9"))
    os.utime(log.path.with_name("access.log.9"), (1, 1))
    append(log.path.with_name("access.log.backup"), lines("other"))
    for number, path in enumerate((first, second) if compress else ()):
        packed = path.with_name(f"{path.name}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        os.utime(packed, (2_000_000_000 + number, 2_000_000_000 + number))
        path.unlink()
    log.start()
    log.read()

    assert log.paths() == Counter("aaaabcd")


def test_a_file_that_is_gone_is_said(log: Followed) -> None:
    append(log.path, lines("a"))
    log.read()
    log.path.unlink()
    append(log.path, lines("b"))
    log.start()
    log.read()

    assert log.paths() == Counter("ab")
    assert "gone" in log.said[-1]


def test_importing_what_was_followed_stores_nothing_twice(log: Followed, client: Client) -> None:
    append(log.path, lines("a", "a", "b"))
    log.read()

    imported = run_import(client, log.path, "--service", "shop")

    assert imported.counts == (0, 3, 0)


def test_following_what_was_imported_stores_nothing_twice(log: Followed, client: Client, tmp_path: Path) -> None:
    import_text(client, tmp_path, lines("a", "a"), "--service", "shop", name="access.log")
    append(log.path, lines("a"))
    log.read()

    assert log.paths() == Counter(a=3)


def test_only_what_is_new_is_read_if_that_is_wanted(log: Followed) -> None:
    append(log.path, lines("a", "b"))
    log.start(new_only=True)
    log.read()
    append(log.path, lines("b", "c"))
    log.read()
    log.start(new_only=True)
    append(log.path, lines("d"))
    log.read()

    assert log.paths() == Counter("bcd")


def test_the_format_is_detected_when_there_are_lines_enough(log: Followed) -> None:
    log.start(format_name=AUTO)
    append(log.path, lines("a"))
    log.read()
    assert log.paths() == Counter()

    log.read(quiet_s=5.0)
    assert log.report.format == "combined"
    append(log.path, lines("b"))
    log.start(format_name=AUTO)
    log.read()

    assert log.paths() == Counter("ab")


def test_fields_of_a_w3c_log_are_known_after_a_restart(log: Followed) -> None:
    append(log.path, b"#Fields: date time cs-method cs-uri-stem sc-status\n2026-03-01 10:00:00 GET /a 200\n")
    log.start(format_name="w3c")
    log.read()
    append(log.path, b"2026-03-01 10:00:01 GET /b 200\n")
    log.start(format_name="w3c")
    log.read()

    assert log.paths() == Counter("ab")
    assert log.report.refused == 0


def test_a_compressed_file_is_not_followed(log: Followed) -> None:
    append(log.path, b"\xff\xfea\x00\n\x00")
    log.read()

    assert log.report.problem is not None


def test_an_outage_is_waited_for(log: Followed, database: str) -> None:
    append(log.path, lines("a"))
    log.read()
    append(log.path, lines("b"))
    reader = threading.Thread(target=log.read)
    with outage(database):
        reader.start()
        assert eventually(lambda: "waiting" in log.said[-1] if log.said else False, DEADLINE_S)
        append(log.path, lines("c"))
    reader.join(DEADLINE_S)
    log.read()

    assert log.paths() == Counter("abc")


# As a process


@pytest.fixture
def start_follow(database: str, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start the command on ``access.log``; what still runs is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [TIERCEL, "observability", "follow", "access.log", "--format", "combined", "--json"],
            stdout=subprocess.PIPE,
            env=make_environment(tmp_path / "home", TIERCEL_DATABASE_URL=database),
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.process
def test_every_line_is_stored_once_whenever_the_command_is_killed(
    database: str, tmp_path: Path, start_follow: Callable[[], subprocess.Popen[bytes]]
) -> None:
    path = tmp_path / "access.log"
    written: Counter[str] = Counter()
    chance = random.Random(7)
    finished = threading.Event()

    def write() -> None:
        for number in range(400):
            # Of one second, many of them identical.
            names = [f"{number // 40}-{chance.randrange(5)}" for _ in range(10)]
            written.update(f"/{name}" for name in names)
            append(path, lines(*names))
            if number in (120, 260):
                path.rename(path.with_name(f"access.log.{number}"))
            finished.wait(0.02)

    def stored() -> Counter[str]:
        with psycopg.connect(database) as connection:
            rows = connection.execute(
                "SELECT endpoint, count(*) FROM observability.event JOIN observability.series ON series.id = series"
                " GROUP BY endpoint"
            )
            return Counter(dict(rows.fetchall()))

    written["/first"] = 1
    append(path, lines("first"))
    process = start_follow()
    # A file that is rotated before the command has ever seen it is not followed.
    assert eventually(lambda: stored() == written, DEADLINE_S)
    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(3):
        eventually(lambda: False, 2.0 + chance.random())
        process.kill()
        process.wait()
        process = start_follow()
    writer.join()

    assert eventually(lambda: stored() == written, DEADLINE_S)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert msgspec.json.decode(output)["refused"] == 0
