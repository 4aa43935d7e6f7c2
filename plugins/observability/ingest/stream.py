"""Ingest of NDJSON streams: a transaction for each batch of lines, and never more than one batch in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec

from kernel import ApiError, StreamBody, TooLargeError
from kernel.http import current_deadline
from plugins.observability.access import SYSTEM, Access
from plugins.observability.export_trailer import TrailerCheck, WrongTrailerError
from plugins.observability.ingest.copy import rows_at_a_time
from plugins.observability.ingest.decode import EVENT_MAX_BYTES, clean_line, decode_lines
from plugins.observability.ingest.service import IngestLimits, IngestService
from plugins.observability.models import IngestQuery, IngestResult, ItemError

# A batch of long lines ends here, so that memory does not depend on the client.
BATCH_MAX_BYTES = 8 * 1024 * 1024


class _LineBatch(msgspec.Struct):
    """Lines that go into one transaction.

    Args:
        indexes: Position of each in the stream.
        lines: None of them blank.
        errors: Lines that are no events.
        end: How many lines of the stream have been read with these.
        size_bytes: The length of the lines.
    """

    indexes: list[int] = []
    lines: list[bytes] = []
    errors: list[ItemError] = []
    end: int = 0
    size_bytes: int = 0

    def skip(self, body: StreamBody) -> None:
        """Skip a line: if no other is kept, neither is what has been read of the body."""
        if not self.end:
            body.release()

    def is_full(self, lines_max: int) -> bool:
        """Tell whether the next line begins a new batch."""
        return len(self.lines) + len(self.errors) >= lines_max or self.size_bytes >= BATCH_MAX_BYTES


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

    def ingest_stream(
        self, body: StreamBody, query: IngestQuery, idempotency_key: str | None = None, access: Access = SYSTEM
    ) -> IngestResult:
        """Store the valid lines of a stream, ``batch_size`` of them in a transaction.

        The length of a stream is unlimited, except that ``max_events`` applies if it is given, and where events must be
        remembered beyond their batch: under ``strict`` and under an idempotency key.

        Args:
            body: One event a line.
            query: Lowers limits. ``strict`` makes the whole stream one transaction.
            idempotency_key: Of the request.
            access: Of the sender.

        Raises:
            ApiError: As of ``IngestService.ingest_json``, or of reading the body. The batches before the failed one
                stay stored: ``inserted``, ``duplicates`` and ``rejected`` count them, ``lines`` says where they end.
        """
        limits = self._ingest.limits_of(query)
        is_limited = query.strict or idempotency_key is not None or query.max_events is not None
        deadline = current_deadline()
        totals = _StreamTotals(limits.max_errors)
        seen: Counter[bytes] = Counter()
        try:
            whole_max_bytes = self._ingest.max_bytes if query.strict else None
            for batch in _batches(body, limits, is_limited=is_limited, whole_max_bytes=whole_max_bytes):
                self._ingest.usage.add("bytes", batch.size_bytes)
                decoded = decode_lines(batch.lines, batch.indexes, self._now())
                decoded.errors += batch.errors
                result = self._ingest.ingest(
                    decoded, limits, strict=query.strict, idempotency_key=idempotency_key, seen=seen, access=access
                )
                totals.add(result, batch.end)
                body.release()
                # A stream may go on for as long as it gets anywhere.
                deadline.restart()
        except ApiError as ex:
            ex.extra = {**totals.counts(), **ex.extra}
            raise
        return totals.result()


def _batches(
    body: StreamBody, limits: IngestLimits, *, is_limited: bool, whole_max_bytes: int | None
) -> Iterator[_LineBatch]:
    """Gather lines into batches. Blank lines, and the last line of an export, are skipped, but count in positions.

    Args:
        body: The stream.
        limits: Of the request.
        is_limited: Whether ``max_events`` applies.
        whole_max_bytes: How long a stream may be that is one batch; None to begin a new one when one is full.
    """
    batch = _LineBatch()
    trailers = TrailerCheck()
    count = batches = 0
    size = limits.batch_size
    for index, sent in body.lines(EVENT_MAX_BYTES):
        line = clean_line(sent)
        try:
            if not line or line.isspace() or trailers.is_trailer(line.removesuffix(b"\r")):
                batch.skip(body)
                continue
        except WrongTrailerError as ex:
            batch.errors.append(ItemError(index, {"non_field_errors": [str(ex)]}))
        else:
            batch.indexes.append(index)
            batch.lines.append(line)
        count += 1
        if is_limited and count > limits.max_events:
            raise TooLargeError("Too many events in one request.", detail=f"the limit is {limits.max_events}")
        batch.end = index + 1
        batch.size_bytes += len(line)
        if whole_max_bytes is not None and batch.size_bytes > whole_max_bytes:
            raise TooLargeError(detail=f"a stream that is stored whole has at most {whole_max_bytes} bytes")
        if whole_max_bytes is None and batch.is_full(size):
            yield batch
            batch = _LineBatch()
            batches += 1
            size = rows_at_a_time(limits.batch_size, batches)
    if batch.lines or batch.errors:
        yield batch
