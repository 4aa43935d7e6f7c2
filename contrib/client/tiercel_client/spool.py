"""The spool: a directory of events that outlive the process.

Each file is a segment: events as JSON, a line each, and one batch of the delivery. Its name is the batch's
``Idempotency-Key``, so that the same bytes go out under the same key whichever process sends them. A segment is written
by one process, which holds a lock (flock) on it meanwhile, sealed when it is full or due, and removed once it is
answered. The locks of a process that is killed end with it: any other process then sends what it has left. A line
counts once its end is there; what a killed process has written of its last one is ignored.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment] # without it, ``Spool`` is refused

_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{16}\.ndjson")
# How long it is believed that the spool is full, or cannot be written.
_REFUSAL_S = 1.0
# No process writes a longer segment; such a file is not one.
_SEGMENT_MAX_BYTES = 64 * 1024 * 1024


class Segment:
    """A sealed segment, locked by this process.

    Args:
        path: The file.
        descriptor: Of the file; holds the lock.
        lines: The events that are whole.
        damaged: How many further lines are no events.
    """

    def __init__(self, path: Path, descriptor: int, lines: list[bytes], damaged: int) -> None:
        self.key = path.stem
        self.lines = lines
        self.damaged = damaged
        self._path = path
        self._descriptor = descriptor

    def remove(self) -> None:
        """Remove the file: its events are answered."""
        try:
            with suppress(FileNotFoundError):
                self._path.unlink()
        finally:
            self.release()

    def release(self) -> None:
        """Leave the segment to whichever process takes it next."""
        if self._descriptor >= 0:
            _unlock(self._descriptor)
            self._descriptor = -1

    def abandon(self) -> None:
        """Forget the segment in a forked process; the parent still has it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Spool:
    """The part of a directory that belongs to one destination.

    Args:
        directory: Of the spool; the first write makes it if it is missing.
        destination: What identifies where the events go to, and as whose: events of others are left alone.
        max_bytes: The most bytes of it, of all processes.
        segment_max_bytes: A segment is sealed before it is longer.
        segment_max_events: A segment is sealed before it has more events.
        fsync: Whether to force each write to the disk.

    Raises:
        ValueError: The platform has no flock.
    """

    def __init__(
        self,
        directory: str,
        destination: Sequence[str],
        *,
        max_bytes: int,
        segment_max_bytes: int,
        segment_max_events: int,
        fsync: bool,
    ) -> None:
        if fcntl is None:
            raise ValueError("spool_dir: this platform has no locks of files (flock)")
        digest = hashlib.sha256("\0".join(destination).encode()).hexdigest()[:16]
        self.directory = Path(directory) / digest
        self._max_bytes = max_bytes
        self._segment_max_bytes = segment_max_bytes
        self._segment_max_events = segment_max_events
        self._fsync = fsync
        self._lock = threading.Lock()
        self._open: Path | None = None
        self._descriptor = -1
        self._bytes = 0
        self._events = 0
        self._opened_at = 0.0
        self._refused_until = 0.0
        self.refusal = ""

    @property
    def is_refusing(self) -> bool:
        """Whether the last write did not succeed; ``refusal`` says why."""
        return bool(self.refusal)

    def append(self, lines: Sequence[bytes]) -> bool:
        """Write events into the open segment, all or none of them.

        Args:
            lines: JSON, without the ends of lines.

        Returns:
            Whether they are in the spool; if not, it is full, or the disk fails.
        """
        content = b"\n".join(lines) + b"\n"
        with self._lock:
            if self.refusal and time.monotonic() < self._refused_until:
                return False
            try:
                self._make_room(len(content), len(lines))
                self._write(content)
            except OSError as ex:
                self.refusal = _text(ex)
                self._refused_until = time.monotonic() + _REFUSAL_S
                return False
            self.refusal = ""
            self._bytes += len(content)
            self._events += len(lines)
            if self._events >= self._segment_max_events or self._bytes >= self._segment_max_bytes:
                self._seal()
            return True

    def _make_room(self, added_bytes: int, added_events: int) -> None:
        is_over = (
            self._bytes + added_bytes > self._segment_max_bytes
            or self._events + added_events > self._segment_max_events
        )
        if self._open is not None and self._events and is_over:
            self._seal()
        if self._open is None:
            self._begin()

    def _begin(self) -> None:
        # Not before: the first process may have other rights than those that write.
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.size_bytes() >= self._max_bytes:
            raise OSError(f"the spool has its {self._max_bytes} bytes")
        while True:
            # By age, whoever wrote it.
            path = self.directory / f"{time.time_ns():020d}-{os.urandom(8).hex()}.ndjson"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Another process may have found it without a lock, and removed it as empty.
                if os.fstat(descriptor).st_nlink:
                    break
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)
        self._open, self._descriptor = path, descriptor
        self._bytes = self._events = 0
        self._opened_at = time.monotonic()
        if self._fsync:
            _fsync_directory(self.directory)

    def _write(self, content: bytes) -> None:
        try:
            written = os.write(self._descriptor, content)
            if written == len(content) and self._fsync:
                os.fsync(self._descriptor)
        except OSError:
            self._undo()
            raise
        if written != len(content):
            self._undo()
            raise OSError("the disk is full")

    def _undo(self) -> None:
        """Take back what may have been written of the last events: they are not in the spool."""
        try:
            os.ftruncate(self._descriptor, self._bytes)
        except OSError:
            # Nothing may follow an incomplete line.
            self._seal()

    def _seal(self) -> None:
        if self._open is None:
            return
        _unlock(self._descriptor)
        self._open, self._descriptor = None, -1
        self._bytes = self._events = 0

    def seal(self, age_s: float = 0.0) -> None:
        """Seal the open segment if it is as old as this, so that it can be taken."""
        with self._lock:
            if self._events and time.monotonic() - self._opened_at >= age_s:
                self._seal()

    def abandon(self) -> None:
        """Forget the open segment in a forked process; the parent still writes it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._open, self._descriptor = None, -1

    def size_bytes(self) -> int:
        """Return how long all segments are."""
        total = 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def take(self) -> Segment | None:
        """Return the oldest sealed segment that no other process has, and lock it; None if there is none.

        A disk that fails is a ``refusal``, and there is none.
        """
        try:
            return self._take()
        except FileNotFoundError:  # the next write makes the directory anew
            return None
        except OSError as ex:
            self.refusal = _text(ex)
            return None

    def _take(self) -> Segment | None:
        # By name, which begins with the time.
        for path in sorted(path for path in self.directory.iterdir() if _NAME.fullmatch(path.name)):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            segment = None
            try:
                segment = self._lock_segment(path, descriptor)
            finally:
                if segment is None:
                    os.close(descriptor)
            if segment is not None:
                return segment
        return None

    def _lock_segment(self, path: Path, descriptor: int) -> Segment | None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        found = os.fstat(descriptor)
        if not found.st_nlink or found.st_size > _SEGMENT_MAX_BYTES:
            return None
        content = _read(descriptor, found.st_size)
        whole = content[: content.rfind(b"\n") + 1].splitlines()
        lines = [line for line in whole if line.startswith(b"{") and line.endswith(b"}")]
        if not whole:
            path.unlink()
            return None
        return Segment(path, descriptor, lines, len(whole) - len(lines))


def _text(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _unlock(descriptor: int) -> None:
    """Close a file that is locked. A process forked meanwhile may still have it open, which would keep the lock."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    offset = 0
    while offset < size and (part := os.pread(descriptor, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
