"""Reading of log files: plain, compressed, truncated; ids of identical lines."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plugins.observability.commands import service_of_file
from plugins.observability.importer.files import CHUNK_BYTES, LogFile
from plugins.observability.importer.service import LineIds

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

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


# Lines do not begin a file that is taken for one in another encoding, whatever its name.
MAGIC_NUMBERS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PK", b"\xfd7z", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
PACKS = [bytes, gzip.compress, split_gzip, lambda content: gzip.compress(content) + bytes(512), zstd.compress]
PACK_NAMES = ["plain", "gzip", "gzip in two goes", "gzip and padding", "zstd"]


@pytest.mark.parametrize("pack", PACKS, ids=PACK_NAMES)
@given(lines=st.lists(st.binary(max_size=20).map(lambda line: line.translate(None, b"\n\r\0"))))
def test_every_line_is_read_compressed_or_not(pack: Pack, lines: list[bytes]) -> None:
    content = b"".join(line + b"\n" for line in lines) or b"\n"
    assume(not content.startswith(MAGIC_NUMBERS))

    found, log = read(pack(content))

    assert (found, log.problem, log.complete) == (lines or [b""], None, True)


@pytest.mark.parametrize("pack", PACKS, ids=PACK_NAMES)
def test_lines_across_chunks_are_whole(pack: Pack) -> None:
    lines = [b"%d " % number + b"x" * (CHUNK_BYTES // 7) for number in range(30)]

    found, _ = read(pack(b"\n".join(lines) + b"\n"))

    assert found == lines


def test_nuls_around_a_line_are_removed_however_many_there_are() -> None:
    content = bytes(5_000_000) + b"one\n" + bytes(10) + b"\n" + bytes(10) + b"two\0\r\n" + bytes(10)

    found, log = read(content)

    assert (found, log.complete) == ([b"one", b"", b"two"], True)


def test_a_byte_order_mark_is_removed() -> None:
    assert read(b"\xef\xbb\xbfone\n")[0] == [b"one"]
    assert read(gzip.compress(b"\xef\xbb\xbfone\n"))[0] == [b"one"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a log of 2025, in UTF-16\n".encode("utf-16"), "UTF-16: convert it"),
        ("a log of 2025, in UTF-16\n".encode("utf-16-le"), "UTF-16: convert it"),
        ("a log of 2025, in UTF-16\n".encode("utf-16-be"), "UTF-16: convert it"),
        (bz2.compress(b"one\n"), "bzip2"),
        (lzma.compress(b"one\n"), "xz"),
    ],
    ids=["UTF-16", "UTF-16 LE", "UTF-16 BE", "bzip2", "xz"],
)
def test_a_file_in_an_encoding_that_is_not_read_is_reported(content: bytes, problem: str) -> None:
    found, log = read(content)

    assert found == []
    assert problem in (log.problem or "")


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
