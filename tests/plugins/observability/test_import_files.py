"""Reading of log files: plain, compressed, truncated; ids of identical lines."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plugins.observability.commands import service_of_file
from plugins.observability.importer.files import CHUNK_BYTES, LogFile
from plugins.observability.importer.service import LineIds

Pack = Callable[[bytes], bytes]


def ignore(_bytes: float) -> None:
    """Take progress and show nothing."""


def read(content: bytes) -> tuple[list[bytes], LogFile]:
    """Read all lines of a file."""
    log = LogFile(io.BytesIO(content), ignore)
    return list(log.lines()), log


def split_gzip(content: bytes) -> bytes:
    """Pack in two goes, as a log that is appended to."""
    half = len(content) // 2
    return gzip.compress(content[:half]) + gzip.compress(content[half:])


GZIP_MAGIC = b"\x1f\x8b"
PACKS = [bytes, gzip.compress, split_gzip, lambda content: gzip.compress(content) + bytes(512)]
PACK_NAMES = ["plain", "gzip", "gzip in two goes", "gzip and padding"]


@pytest.mark.parametrize("pack", PACKS, ids=PACK_NAMES)
@given(lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))))
def test_every_line_is_read_compressed_or_not(pack: Pack, lines: list[bytes]) -> None:
    content = b"".join(line + b"\n" for line in lines) or b"\n"
    assume(not content.startswith(GZIP_MAGIC))  # such a file is taken for gzip, whatever its name

    found, log = read(pack(content))

    assert (found, log.problem, log.complete) == (lines or [b""], None, True)


@pytest.mark.parametrize("pack", PACKS, ids=PACK_NAMES)
def test_lines_across_chunks_are_whole(pack: Pack) -> None:
    lines = [b"%d " % number + b"x" * (CHUNK_BYTES // 7) for number in range(30)]

    found, _ = read(pack(b"\n".join(lines) + b"\n"))

    assert found == lines


def test_carriage_returns_are_removed() -> None:
    assert read(b"one\r\ntwo\r\n")[0] == [b"one", b"two"]


def test_a_last_line_without_an_end_is_marked() -> None:
    found, log = read(b"one\ntwo")

    assert (found, log.complete) == ([b"one", b"two"], False)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_gzip_file_is_read_up_to_its_end(kept: float) -> None:
    lines = [b"line %d" % number for number in range(1000)]
    packed = gzip.compress(b"\n".join(lines) + b"\n")

    found, log = read(packed[: int(len(packed) * kept)])

    assert len(found) > 1000 * kept / 4
    assert found[:-1] == lines[: len(found) - 1]
    assert log.problem is not None
    assert "cut off" in log.problem


def test_a_damaged_gzip_file_is_reported() -> None:
    packed = bytearray(gzip.compress(b"one\ntwo\n"))
    packed[-8] ^= 1

    _, log = read(bytes(packed))

    assert log.problem is not None
    assert "incorrect data check" in log.problem


def test_a_file_without_line_ends_is_read_in_constant_memory() -> None:
    found, _ = read(gzip.compress(b"x" * 50 * 1024 * 1024))

    assert sum(map(len, found)) < 3 * 1024 * 1024


def test_progress_counts_the_bytes_of_the_file() -> None:
    packed = gzip.compress(b"line\n" * 200_000)
    seen: list[float] = []

    list(LogFile(io.BytesIO(packed), seen.append).lines())

    assert sum(seen) == len(packed)


def test_identical_lines_get_distinct_ids_that_are_the_same_in_every_import() -> None:
    lines = [b"a", b"b", b"a", b"a"]
    first, second = LineIds(), LineIds()

    suffixes = [first.next_suffix("shop", line) for line in lines]

    assert len(set(suffixes)) == 4
    assert [second.next_suffix("shop", line) for line in lines] == suffixes


def test_services_do_not_share_events() -> None:
    assert LineIds().next_suffix("shop", b"a") != LineIds().next_suffix("till", b"a")


def test_the_number_of_remembered_lines_is_limited() -> None:
    ids = LineIds(remembered=2)
    seen = [ids.next_suffix("shop", line) for line in (b"a", b"b", b"a", b"c", b"a", b"b")]

    assert seen[5] == seen[1]
    assert len({seen[0], seen[2], seen[4]}) == 3


@pytest.mark.parametrize(
    ("file", "service"),
    [
        ("/var/log/nginx/shop.log", "shop"),
        ("shop.log.1", "shop"),
        ("shop.log.12.gz", "shop"),
        ("shop.log-20251214.gz", "shop"),
        ("shop-2025-12-14.jsonl", "shop"),
        ("shop.log.2025-12-14_1", "shop"),
        ("api.example.com.log", "api.example.com"),
        ("api-2", "api-2"),
        ("x" * 300, "x" * 100),
        ("-", "stdin"),
        (".log", ".log"),
    ],
)
def test_the_service_of_a_file_does_not_depend_on_rotation(file: str, service: str) -> None:
    assert service_of_file(file) == service
