"""What is in the spool outlives its process, stays within its bounds, and is sent once by whoever finds it."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest

from kernel.testing import Client
from tests.contrib.client.conftest import MakeReporter, stored
from tests.contrib.client.front import Answer, Front
from tests.contrib.client.test_reporter import AWAY, LONG_S, numbers, report, wait_for
from tests.processes import eventually
from tiercel_client import Accepted
from tiercel_client.spool import Segment, Spool


def files(directory: Path) -> list[Path]:
    """Return the segments below a directory."""
    return sorted(directory.rglob("*.ndjson"))


def put_a_file_in_the_place_of(directory: Path) -> None:
    """Make a spool fail, even for root."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.write_text("")


def make_spool(directory: Path, max_bytes: int = 10_000) -> Spool:
    return Spool(
        str(directory), ["here"], max_bytes=max_bytes, segment_max_bytes=1000, segment_max_events=10, fsync=True
    )


@pytest.mark.parametrize("spool_write", ["batch", "event"])
def test_a_batch_outlives_its_process_with_its_key_and_bytes(
    front: Front, store: Client, reporter: MakeReporter, tmp_path: Path, spool_write: str
) -> None:
    front.always = AWAY
    options = {"spool_dir": str(tmp_path), "spool_write": spool_write, "service": f"outlives-{spool_write}"}
    first = reporter(**options)
    accepted = [report(first, number) for number in range(20)]
    assert eventually(lambda: first.counters().spooled == 20 and len(front.received) > 2)
    assert first.close()
    tried = list(front.received)
    front.always = None
    second = reporter(**options)
    assert second.flush()

    assert accepted == [Accepted.SPOOL if spool_write == "event" else Accepted.MEMORY] * 20
    # What the first process had sealed is a batch of the second as well.
    sent = front.received[len(tried)]
    assert (sent.key, sent.content) == (tried[-1].key, tried[-1].content)
    assert numbers(stored(store, options["service"])) == list(range(20))
    assert second.counters().recovered == second.counters().stored == 20
    assert files(tmp_path) == []


def test_events_wait_in_memory_while_the_disk_or_the_limit_refuses_them(
    front: Front, store: Client, reporter: MakeReporter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    front.always = AWAY
    limits = {"batch_max_events": 10, "spool_max_bytes": 10_000}
    directory = tmp_path / "spool"
    sent = reporter(spool_dir=str(directory), spool_write="event", queue_max_events=50, **limits)
    accepted = Counter(report(sent, number) for number in range(200))
    assert sum(file.stat().st_size for file in files(tmp_path)) < 10_000 + 10 * 300
    front.always = None
    count = accepted[Accepted.SPOOL] + accepted[Accepted.MEMORY]
    wait_for(sent, count)
    put_a_file_in_the_place_of(directory)
    assert report(sent, 200) is Accepted.MEMORY
    wait_for(sent, count + 1)
    directory.unlink()
    assert eventually(lambda: report(sent, 201) is Accepted.SPOOL)

    assert accepted[Accepted.SPOOL] >= 30
    assert accepted[Accepted.MEMORY] == 50
    assert accepted[Accepted.NO] == 200 - count
    assert len(stored(store, sent.settings.service)) >= count + 1


def test_a_batch_of_memory_that_the_spool_refuses_is_sent_all_the_same(
    store: Client, reporter: MakeReporter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sent = reporter(spool_dir=str(tmp_path / "spool"))
    put_a_file_in_the_place_of(tmp_path / "spool")
    for number in range(5):
        report(sent, number)
    wait_for(sent, 5)

    assert numbers(stored(store, sent.settings.service)) == list(range(5))
    assert "the spool cannot be written: Not a directory" in capfd.readouterr().err


def test_what_a_killed_process_has_begun_to_write_is_left_out(
    front: Front, store: Client, reporter: MakeReporter, tmp_path: Path
) -> None:
    front.always = AWAY
    options = {"spool_dir": str(tmp_path), "spool_write": "event"}
    first = reporter(flush_interval_s=LONG_S, **options)
    for number in range(3):
        report(first, number)
    first.close()
    (file,) = files(tmp_path)
    # A page of NULs is what a loss of power leaves, half a line what a kill does.
    with file.open("ab") as segment:
        segment.write(b"\0" * 10 + b"\n" + b'{"time": "2026-')
    front.always = None
    second = reporter(**options)
    assert second.flush()

    assert numbers(stored(store, second.settings.service)) == [0, 1, 2]
    assert second.counters().dropped == Counter(damaged=1)
    assert files(tmp_path) == []


def test_an_open_segment_belongs_to_its_writer_and_a_sealed_one_to_whoever_takes_it_first(tmp_path: Path) -> None:
    writer, other = make_spool(tmp_path), make_spool(tmp_path)
    assert writer.append([b'{"a":1}', b'{"a":2}'])
    assert other.take() is None
    writer.seal(age_s=LONG_S)
    assert other.take() is None
    writer.seal()
    segment = other.take()

    assert segment is not None
    assert segment.lines == [b'{"a":1}', b'{"a":2}']
    assert writer.take() is None
    segment.release()
    again = writer.take()
    assert again is not None
    assert again.key == segment.key
    again.remove()
    assert other.take() is None


def test_writers_and_takers_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    spools = [make_spool(tmp_path, max_bytes=10_000_000) for _ in range(4)]
    taken: list[bytes] = []
    is_written = threading.Event()

    def write(spool: Spool, first: int) -> None:
        for number in range(first, first + 200):
            assert spool.append([b'{"n":%d}' % number])
        spool.seal()

    def take(spool: Spool) -> None:
        segment: Segment | None = None
        while segment is not None or not is_written.is_set():
            segment = spool.take()
            if segment is not None:
                taken.extend(segment.lines)
                segment.remove()

    writers = [threading.Thread(target=write, args=(spool, 1000 * at)) for at, spool in enumerate(spools)]
    takers = [threading.Thread(target=take, args=(spool,)) for spool in spools]
    for thread in writers + takers:
        thread.start()
    for thread in writers:
        thread.join()
    is_written.set()
    for thread in takers:
        thread.join()
    taken.extend(line for spool in spools for segment in iter(spool.take, None) for line in segment.lines)

    assert sorted(taken) == sorted(b'{"n":%d}' % (1000 * at + number) for at in range(4) for number in range(200))


def test_destinations_do_not_see_each_other(
    front: Front, store: Client, reporter: MakeReporter, tmp_path: Path
) -> None:
    front.always = Answer(503)
    first = reporter(spool_dir=str(tmp_path), spool_write="event")
    report(first, 1)
    first.close()
    front.always = None
    other = reporter(spool_dir=str(tmp_path), site="other")
    assert other.flush()

    assert len(files(tmp_path)) == 1
    assert stored(store, other.settings.service) == []
