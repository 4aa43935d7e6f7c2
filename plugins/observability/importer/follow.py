"""Follow log files while they are written, through rotation, truncation and restarts.

Events have the ids that ``tiercel observability import`` gives to their lines: whatever is read twice, by this command
or by that one, is stored once. Where it stopped reading is kept in the database, after what was read is stored.

A file is recognized by its first bytes: its name changes when it is rotated, and its inode may be that of another one
when it is gone. The next file at a path continues the one before: identical lines in both are counted on.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import BinaryIO, TypeVar

import msgspec

from kernel import Database, UnavailableError, backoff_s
from plugins.observability.importer.files import (
    BYTE_ORDER_MARK,
    CHUNK_BYTES,
    LINE_MAX_BYTES,
    UnreadableFileError,
    ensure_readable,
    read_head,
    strip_line,
)
from plugins.observability.importer.parsers import AUTO
from plugins.observability.importer.service import DETECTION_LINES, FileImport, FileReport, Importer, LineIds
from plugins.observability.queries import QUERIES

T = TypeVar("T")
POLL_S = 0.5
# The position is saved this often while there is more to read.
SAVE_INTERVAL_S = 1.0
# A format is detected from fewer lines than ``DETECTION_LINES`` if no more come in this time.
DETECTION_WAIT_S = 5.0
# How long programs may write on to a file that was rotated: until they are told to open the new one.
ROTATED_QUIET_S = 10.0
PATH_MAX = 1024
HEAD_BYTES = 4096
# Identical lines share their second.
CARRIED_LINES = 2000
_RETRY_FIRST_S = 0.5
_RETRY_MAX_S = 15.0
_DIGEST_BYTES = 16
# What rotation appends to a name.
_ROTATED = re.compile(r"(?:\.\d+|[.-]\d{4}-?\d\d-?\d\d(?:[-_T]?\d+)?)(?:\.(?:gz|zst))?")
_COUNT_BYTES = 4


class Head(msgspec.Struct, frozen=True):
    """The first bytes of a file.

    Args:
        sha: BLAKE2b of them.
        size: How many they are; fewer than ``HEAD_BYTES`` of a file that was shorter.
    """

    sha: bytes
    size: int

    @classmethod
    def of(cls, content: bytes) -> Head:
        """Return the head of a file that begins like this."""
        first = content[:HEAD_BYTES]
        return cls(hashlib.blake2b(first, digest_size=_DIGEST_BYTES).digest(), len(first))

    def is_of(self, content: bytes) -> bool:
        """Tell whether a file that begins like this has this head."""
        return len(content) >= self.size and Head.of(content[: self.size]) == self


_NO_HEAD = Head(b"", 0)


class SavedPosition(msgspec.Struct, frozen=True):
    """How far a file is stored.

    Args:
        format: Of its lines.
        head: Of the file.
        position_bytes: All lines up to here are stored.
        last_lines_before: Of the file that was at its path before; see ``LineIds``.
    """

    format: str
    head: Head
    position_bytes: int
    last_lines_before: Mapping[bytes, int]


class Positions:
    """Positions in the database, of the files that this machine follows for an account.

    Args:
        db: Connection pool.
        account: Its number.
    """

    def __init__(self, db: Database, account: int) -> None:
        self._db = db
        self._key = {"account": account, "host": socket.gethostname()}

    def load(self, path: str, service: str) -> SavedPosition | None:
        """Return the position in the file at a path; None before the first.

        Raises:
            UnavailableError: The database is unavailable.
        """
        with self._db.connection() as connection:
            parameters = {**self._key, "path": path, "service": service}
            row = connection.execute(QUERIES["followed_file"], parameters).fetchone()
        if row is None:
            return None
        name, sha, size, position, packed = row
        return SavedPosition(name, Head(sha, size), position, _unpack(packed))

    def save(self, path: str, service: str, saved: SavedPosition) -> None:
        """Save the position in the file at a path.

        Raises:
            UnavailableError: The database is unavailable.
        """
        parameters = {
            **self._key,
            "path": path,
            "service": service,
            "format": saved.format,
            "head_sha": saved.head.sha,
            "head_bytes": saved.head.size,
            "position_bytes": saved.position_bytes,
            "last_lines_before": _pack(saved.last_lines_before),
        }
        with self._db.connection() as connection:
            connection.execute(QUERIES["save_followed_file"], parameters)


def _pack(lines: Mapping[bytes, int]) -> bytes:
    return b"".join(digest + count.to_bytes(_COUNT_BYTES, "big") for digest, count in lines.items())


def _unpack(packed: bytes) -> dict[bytes, int]:
    size = _DIGEST_BYTES + _COUNT_BYTES
    pieces = (packed[at : at + size] for at in range(0, len(packed), size))
    return {piece[:_DIGEST_BYTES]: int.from_bytes(piece[_DIGEST_BYTES:], "big") for piece in pieces}


class _OpenFile:
    """A file while it is read, line by line, without an end.

    Args:
        stream: Opened for reading bytes, without a buffer.

    Attributes:
        lines: How many were returned.
        position_bytes: Where the first line begins that was not returned yet.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.lines = 0
        self.position_bytes = 0
        self._rest = b""
        self._rest_bytes = 0

    def first_bytes(self, size: int = HEAD_BYTES) -> bytes:
        """Return the first bytes of the file as it is now."""
        return os.pread(self.stream.fileno(), size, 0)

    def read(self, size: int = CHUNK_BYTES) -> list[bytes] | None:
        """Return the lines that end in the next piece of the file; None at its present end."""
        chunk = self.stream.read(size)
        if not chunk:
            return None
        *ended, rest = chunk.split(b"\n")
        if ended:
            ended[0] = self._rest + ended[0]
            if self.lines == 0:
                ended[0] = ended[0].removeprefix(BYTE_ORDER_MARK)
            self.position_bytes += self._rest_bytes + len(chunk) - len(rest)
            self._rest, self._rest_bytes = b"", 0
        # A line that is longer is refused anyway.
        self._rest = (self._rest + rest)[:LINE_MAX_BYTES]
        self._rest_bytes += len(rest)
        self.lines += len(ended)
        return [strip_line(line) for line in ended]

    def take_rest(self) -> bytes:
        """Return what follows the last line end, as a line."""
        rest = strip_line(self._rest)
        self.position_bytes += self._rest_bytes
        self.lines += bool(rest)
        self._rest, self._rest_bytes = b"", 0
        return rest


class FollowedFile:
    """The file at a path, and those that replace it.

    Args:
        path: Absolute. There need not be a file yet.
        service: The service whose log it is.
        importer: Stores its events.
        positions: Where reading stopped.
        report: Has path and format; counts what is read from all of the files.
        stopping: Is set when reading should end.
        json_service: The service of JSON events that have none; None rejects those.
        new_only: Whether a file that is followed for the first time is read from its present end.
        clock_s: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        path: Path,
        service: str,
        importer: Importer,
        positions: Positions,
        report: FileReport,
        stopping: Event,
        *,
        json_service: str | None = None,
        new_only: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._service = service
        self._json_service = json_service
        self._importer = importer
        self._positions = positions
        self.report = report
        self._stopping = stopping
        self._new_only = new_only
        self._clock_s = clock_s
        self._file: _OpenFile | None = None
        self._import: FileImport | None = None
        self._before: Mapping[bytes, int] = {}
        self._is_first = True
        self._said = ""
        # When there was a first line, when there was the last one, and when the position was saved.
        self._began_at_s: float | None = None
        self._grew_at_s = 0.0
        self._saved_at_s = 0.0
        self._saved_position_bytes = -1
        self._head = _NO_HEAD

    def poll(self) -> bool:
        """Read a piece of what has come since, and store it; return whether there was anything.

        It waits while the database is unavailable.

        Raises:
            UnavailableError: The database is unavailable, and ``stopping`` is set.
        """
        if self.report.problem is not None:
            return False
        try:
            file = self._file or self._open()
            if file is None or (self._import is None and not self._begin(file)):
                return False
            return self._read_on(file)
        except UnreadableFileError as ex:
            self.report.problem = str(ex)
        except OSError as ex:
            self._say(f"cannot be read: {ex}")
        return False

    def store(self) -> None:
        """Store what was read, and save the position.

        Raises:
            UnavailableError: The database is unavailable, and ``stopping`` is set. The next process reads it again.
        """
        if self._import is not None and self._file is not None:
            self._store_and_save(self._file)

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.stream.close()

    # Begin

    def _open(self) -> _OpenFile | None:
        try:
            self._file = _OpenFile(self._path.open("rb", buffering=0))
        except FileNotFoundError:
            self._say("there is no such file yet")
        else:
            self._said = ""
        return self._file

    def _begin(self, file: _OpenFile) -> bool:
        """Find out where to begin; return False while there are too few lines to tell their format."""
        first = file.first_bytes(CHUNK_BYTES)
        ensure_readable(first)
        saved = None
        if self._is_first:
            saved = self._wait_for(lambda: self._positions.load(str(self._path), self._service))
        if saved is not None and self.report.format == AUTO:
            self.report.format = saved.format
        if self.report.format == AUTO and not self._can_detect(first):
            return False
        is_known = saved is not None and saved.head.is_of(first)
        if saved is not None:
            self._before = saved.last_lines_before if is_known else self._import_rotated(saved)
        self._import = FileImport(
            self._importer,
            self.report,
            [line for line in map(strip_line, first.split(b"\n")[:-1]) if line.strip()][:DETECTION_LINES],
            service=self._service,
            json_service=self._json_service,
            ids=LineIds(owner=self._importer.owner, before=self._before),
        )
        if saved is not None and is_known:
            self._skip(file, saved.position_bytes)
        elif saved is None and self._is_first and self._new_only:
            self._skip(file, os.fstat(file.stream.fileno()).st_size)
        self._is_first = False
        self._grew_at_s = self._clock_s()
        return True

    def _can_detect(self, first: bytes) -> bool:
        """Tell whether there are enough lines to detect their format, or no more have come for some time."""
        if b"\n" not in first:
            return False
        if self._began_at_s is None:
            self._began_at_s = self._clock_s()
        is_enough = first.count(b"\n") >= DETECTION_LINES or len(first) == CHUNK_BYTES
        return is_enough or self._clock_s() - self._began_at_s >= DETECTION_WAIT_S

    def _skip(self, file: _OpenFile, end_bytes: int) -> None:
        """Count the lines before a position, which are stored already, or not wanted."""
        read_bytes = 0
        while read_bytes < end_bytes and (lines := file.read(min(CHUNK_BYTES, end_bytes - read_bytes))) is not None:
            read_bytes = file.stream.tell()
            for line in lines:
                if line.strip() and self._import is not None:
                    self._import.skip(line)

    def _import_rotated(self, saved: SavedPosition) -> Mapping[bytes, int]:
        """Import what was written to the files that were at the path since the position was saved.

        What was stored of the first is recognized by its ids. Returns the last lines of the last of them.
        """
        before = saved.last_lines_before
        files = self._rotated_since(saved.head)
        if not files:
            self._importer.say(f"{self.report.file}: the file that was read last is gone: the rest of it is not read")
        for path in files:
            with path.open("rb") as stream:
                report = FileReport(str(path), self.report.format)
                before = self._import_file(report, stream, before)
        return before

    def _import_file(self, report: FileReport, stream: BinaryIO, before: Mapping[bytes, int]) -> Mapping[bytes, int]:
        def import_it() -> LineIds:
            stream.seek(0)
            return self._importer.import_file(
                report,
                stream,
                lambda _bytes: None,
                service=self._service,
                json_service=self._json_service,
                before=before,
            )

        ids = self._wait_for(import_it)
        self.report.add(report)
        return ids.last_lines(CARRIED_LINES)

    def _rotated_since(self, head: Head) -> list[Path]:
        """Return the file that begins like this, and those at the path after it, oldest first; none if it is gone."""
        siblings = []
        stem, suffix = self._path.stem, self._path.suffix
        for path in self._path.parent.iterdir():
            rotated = path.name.removeprefix(self._path.name)
            if not path.name.startswith(self._path.name):
                # As logrotate's option "extension" has it: access-20260301.log
                rotated = path.name.removeprefix(stem).replace(suffix, "", 1) if path.name.startswith(stem) else ""
            if _ROTATED.fullmatch(rotated):
                with suppress(OSError):
                    siblings.append((path.stat().st_mtime_ns, path))
        found: list[Path] = []
        for _, path in sorted(siblings, reverse=True):
            with suppress(OSError):
                found.append(path)
                if head.is_of(read_head(path, HEAD_BYTES)):
                    return found[::-1]
        return []

    # Read

    def _read_on(self, file: _OpenFile) -> bool:
        lines = file.read()
        if lines is None:
            return self._at_end(file)
        self._grew_at_s = self._clock_s()
        self._add(file, lines)
        if self._clock_s() - self._saved_at_s >= SAVE_INTERVAL_S:
            self._store_and_save(file)
        return True

    def _add(self, file: _OpenFile, lines: Sequence[bytes], *, complete: bool = True) -> None:
        target = self._import
        if target is None:
            return
        for number, line in enumerate(lines, file.lines - len(lines) + 1):
            if not line.strip():
                continue
            try:
                target.add(number, line, complete=complete)
            except UnavailableError:
                # The line is in the batch that could not be stored.
                self._wait_for(target.store)

    def _at_end(self, file: _OpenFile) -> bool:
        """Store what was read, and look whether another file is at the path."""
        if self._import is not None and (self._import.waiting or file.position_bytes != self._saved_position_bytes):
            self._store_and_save(file)
        try:
            at_path = self._path.stat()
        except FileNotFoundError:
            return False
        opened = os.fstat(file.stream.fileno())
        if (at_path.st_dev, at_path.st_ino) != (opened.st_dev, opened.st_ino):
            # Programs write on to the old file until they have opened the new one.
            if self._clock_s() - self._grew_at_s < ROTATED_QUIET_S:
                return False
        elif opened.st_size >= file.stream.tell() and self._head.is_of(file.first_bytes()):
            return False  # neither another file nor truncated
        self._end(file)
        return True

    def _end(self, file: _OpenFile) -> None:
        """End a file that was rotated or truncated; the next one begins with the next call of ``poll``."""
        target = self._import
        rest = file.take_rest()
        if target is None:
            return
        if rest:
            self._add(file, [rest], complete=False)
        self._wait_for(target.store)
        self._before = target.ids.last_lines(CARRIED_LINES)
        file.stream.close()
        self._file = self._import = None
        self._head, self._saved_position_bytes = _NO_HEAD, -1

    # Store

    def _store_and_save(self, file: _OpenFile) -> None:
        """Store what was read, and save up to where."""
        target = self._import
        if target is None:
            return
        self._wait_for(target.store)
        if self._head.size < HEAD_BYTES:
            self._head = Head.of(file.first_bytes())
        saved = SavedPosition(self.report.format, self._head, file.position_bytes, self._before)
        self._wait_for(lambda: self._positions.save(str(self._path), self._service, saved))
        self._saved_position_bytes, self._saved_at_s = file.position_bytes, self._clock_s()

    def _wait_for(self, action: Callable[[], T]) -> T:
        """Call something until the database is available.

        Raises:
            UnavailableError: It is not, and ``stopping`` is set.
        """
        failures = 0
        while True:
            try:
                return action()
            except UnavailableError as ex:
                failures += 1
                self._say(f"waiting: {ex.detail or ex.code}")
                if self._stopping.wait(backoff_s(failures, _RETRY_FIRST_S, _RETRY_MAX_S)):
                    raise
            else:
                self._said = ""

    def _say(self, text: str) -> None:
        if text != self._said:
            self._importer.say(f"{self.report.file}: {text}")
            self._said = text


def follow(files: Sequence[FollowedFile], stopping: Event) -> None:
    """Follow some files until ``stopping`` is set, and store what was read until then.

    Raises:
        UnavailableError: The database is unavailable; the next process reads what is not stored again.
    """
    try:
        while not stopping.is_set() and any(file.report.problem is None for file in files):
            read = [file.poll() for file in files]
            if not any(read):
                stopping.wait(POLL_S)
        for file in files:
            file.store()
    finally:
        for file in files:
            file.close()
