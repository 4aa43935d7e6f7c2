"""Take a stream of events in, one a line: a transaction for each batch of lines, and never more than one batch held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import msgspec

from kernel import ApiError, StreamBody, TooLargeError
from plugins.observability.ingest.batch import Ingest, Limits
from plugins.observability.ingest.lines import decode_lines
from plugins.observability.model import IngestQuery, IngestResult, ItemError

NDJSON = frozenset({"application/x-ndjson", "application/jsonlines"})
LINE_MAX_BYTES = 1024 * 1024
# A batch of long lines ends here, so that memory depends on no client.
BATCH_MAX_BYTES = 8 * 1024 * 1024


class _Lines(msgspec.Struct):
    """Lines that go into one transaction, with their places in the stream."""

    indexes: list[int] = []
    lines: list[bytes] = []
    size_bytes: int = 0


class _Settled:
    """What became of the batches so far.

    Args:
        errors_max: How many errors to keep.
    """

    def __init__(self, errors_max: int) -> None:
        self._errors_max = errors_max
        self._errors: list[ItemError] = []
        self._inserted = self._duplicates = self._rejected = self._capped = self._lines = 0

    def add(self, result: IngestResult, lines: int) -> None:
        """Add a batch that is stored, which ends after so many lines of the stream."""
        self._inserted += result.inserted
        self._duplicates += result.duplicates
        self._rejected += result.rejected
        self._capped += result.capped
        self._errors += result.errors[: self._errors_max - len(self._errors)]
        self._lines = lines

    def counts(self) -> dict[str, int]:
        """Return what a sender needs to go on from here."""
        return {
            "inserted": self._inserted,
            "duplicates": self._duplicates,
            "rejected": self._rejected,
            "capped": self._capped,
            "lines": self._lines,
        }

    def result(self) -> IngestResult:
        """Return the answer to a stream that came to its end."""
        return IngestResult(self._inserted, self._duplicates, self._rejected, self._errors, self._capped)


class StreamIngest:
    """Takes streams of events in.

    Args:
        ingest: Stores the batches.
        now: The clock.
    """

    def __init__(self, ingest: Ingest, now: Callable[[], datetime]) -> None:
        self._ingest = ingest
        self._now = now

    def take(self, body: StreamBody, query: IngestQuery, key: str | None = None) -> IngestResult:
        """Store the valid lines of a stream, ``batch_size`` of them in a transaction.

        What must be whole, ``strict``, and what must be told from a replay by its content, ``key``, cannot be
        forgotten batch by batch; so there ``max_events`` limits the stream, which is unlimited otherwise.

        Args:
            body: One event a line.
            query: Lowers limits. ``strict`` makes one transaction of the whole stream.
            key: The request's ``Idempotency-Key``.

        Raises:
            ApiError: As ``Ingest.take``, or as reading the body. Batches before the one it happened in stay stored;
                ``inserted``, ``duplicates`` and ``rejected`` count those, ``lines`` says where they end.
        """
        limits = self._ingest.lowered(query)
        is_limited = query.strict or key is not None or query.max_events is not None
        lines = body.lines(LINE_MAX_BYTES)
        batches = _batches(lines, limits, is_limited=is_limited, is_whole=query.strict)
        settled = _Settled(limits.max_errors)
        seen: Counter[bytes] = Counter()
        try:
            for batch in batches:
                decoded = decode_lines(batch.lines, batch.indexes, self._now())
                result = self._ingest.store(decoded, limits, strict=query.strict, key=key, seen=seen)
                settled.add(result, batch.indexes[-1] + 1)
        except ApiError as ex:
            ex.extra = {**settled.counts(), **ex.extra}
            raise
        return settled.result()


def _batches(lines: Iterable[bytes], limits: Limits, *, is_limited: bool, is_whole: bool) -> Iterator[_Lines]:
    """Gather lines into batches; blank ones count as places only."""
    batch = _Lines()
    count = 0
    for index, line in enumerate(lines):
        if not line or line.isspace():
            continue
        count += 1
        if is_limited and count > limits.max_events:
            raise TooLargeError("Too many events in one request.", detail=f"the limit is {limits.max_events}")
        batch.indexes.append(index)
        batch.lines.append(line)
        batch.size_bytes += len(line)
        is_full = len(batch.lines) == limits.batch_size or batch.size_bytes >= BATCH_MAX_BYTES
        if is_full and not is_whole:
            yield batch
            batch = _Lines()
    if batch.lines:
        yield batch
