"""Ingest of NDJSON streams: a transaction for each batch of lines, and never more than one batch in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import msgspec

from kernel import ApiError, StreamBody, TooLargeError
from plugins.observability.ingest.decode import decode_lines
from plugins.observability.ingest.service import IngestLimits, IngestService
from plugins.observability.models import IngestQuery, IngestResult, ItemError

LINE_MAX_BYTES = 1024 * 1024
# A batch of long lines ends here, so that memory does not depend on the client.
BATCH_MAX_BYTES = 8 * 1024 * 1024


class _LineBatch(msgspec.Struct):
    """Lines that go into one transaction, with their positions in the stream."""

    indexes: list[int] = []
    lines: list[bytes] = []
    size_bytes: int = 0


class _StreamTotals:
    """The sum over the batches that are stored.

    Args:
        errors_max: How many errors to list.
    """

    def __init__(self, errors_max: int) -> None:
        self._errors_max = errors_max
        self._errors: list[ItemError] = []
        self._inserted = self._duplicates = self._rejected = self._capped = self._lines = 0
        self._unknown_methods = 0

    def add(self, result: IngestResult, lines: int) -> None:
        """Add a batch that is stored.

        Args:
            result: Its outcome.
            lines: How many lines of the stream have been read with it.
        """
        self._inserted += result.inserted
        self._duplicates += result.duplicates
        self._rejected += result.rejected
        self._capped += result.capped
        self._unknown_methods += result.unknown_methods or 0
        self._errors += result.errors[: self._errors_max - len(self._errors)]
        self._lines = lines

    def counts(self) -> dict[str, int]:
        """Return what a sender needs to resume from here."""
        return {
            "inserted": self._inserted,
            "duplicates": self._duplicates,
            "rejected": self._rejected,
            "capped": self._capped,
            "lines": self._lines,
        }

    def result(self) -> IngestResult:
        """Return the response to a stream that was read to its end."""
        return IngestResult(
            self._inserted,
            self._duplicates,
            self._rejected,
            self._errors,
            self._capped,
            self._unknown_methods or msgspec.UNSET,
        )


class StreamIngest:
    """Stores streams of events.

    Args:
        ingest: Stores the batches.
        now: The clock.
    """

    def __init__(self, ingest: IngestService, now: Callable[[], datetime]) -> None:
        self._ingest = ingest
        self._now = now

    def ingest_stream(self, body: StreamBody, query: IngestQuery, idempotency_key: str | None = None) -> IngestResult:
        """Store the valid lines of a stream, ``batch_size`` of them in a transaction.

        The length of a stream is unlimited, except that ``max_events`` applies if it is given, and where events must be
        remembered beyond their batch: under ``strict`` and under an idempotency key.

        Args:
            body: One event a line.
            query: Lowers limits. ``strict`` makes the whole stream one transaction.
            idempotency_key: Of the request.

        Raises:
            ApiError: As of ``IngestService.ingest_json``, or of reading the body. The batches before the failed one
                stay stored: ``inserted``, ``duplicates`` and ``rejected`` count them, ``lines`` says where they end.
        """
        limits = self._ingest.limits_of(query)
        is_limited = query.strict or idempotency_key is not None or query.max_events is not None
        lines = body.lines(LINE_MAX_BYTES)
        totals = _StreamTotals(limits.max_errors)
        seen: Counter[bytes] = Counter()
        try:
            for batch in _batches(lines, limits, is_limited=is_limited, is_whole=query.strict):
                decoded = decode_lines(batch.lines, batch.indexes, self._now())
                result = self._ingest.ingest(
                    decoded, limits, strict=query.strict, idempotency_key=idempotency_key, seen=seen
                )
                totals.add(result, batch.indexes[-1] + 1)
        except ApiError as ex:
            ex.extra = {**totals.counts(), **ex.extra}
            raise
        return totals.result()


def _batches(lines: Iterable[bytes], limits: IngestLimits, *, is_limited: bool, is_whole: bool) -> Iterator[_LineBatch]:
    """Gather lines into batches. Blank lines are skipped, but count in positions."""
    batch = _LineBatch()
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
            batch = _LineBatch()
    if batch.lines:
        yield batch
