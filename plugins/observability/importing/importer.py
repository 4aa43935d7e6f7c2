"""Import log files: lines to events, events in batches to the writer.

An event's id derives from its service, the line, and how many identical lines stand before it in the file. So a file
can be imported again after it grew, was renamed or packed, and nothing is stored twice. Two files of one service that
share a line share its event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import BinaryIO

import msgspec

from plugins.observability.ids import Tail
from plugins.observability.importing.accesslog import LineParser, RefusedLineError
from plugins.observability.importing.lineformats import AUTO, DETECTION_LINES, describe, detect, make_parser
from plugins.observability.importing.logfiles import LogFile
from plugins.observability.importing.occurrences import Occurrences
from plugins.observability.ingest.preparing import prepare
from plugins.observability.ingest.writing import EventWriter, Written
from plugins.observability.model import EventIn
from plugins.observability.templates import Templates

OnRead = Callable[[float], None]
SENDER = "import"
SHOWN_MAX = 5


class RefusedLine(msgspec.Struct, frozen=True):
    """A line that is no event.

    Args:
        line: Its number, from 1.
        reason: What is wrong, in words that are the same for every such line.
        detail: What is special about this one.
    """

    line: int
    reason: str
    detail: str = ""


class FileReport(msgspec.Struct):
    """What became of a file.

    Args:
        file: Its name as given.
        format: The one given, or found out.
        lines: How many there are, blank ones not counted.
        inserted: Lines whose events are new and stored.
        duplicates: Lines whose events were there already.
        refused: The others.
        capped: Lines, not refused, whose events went to endpoint ``__other__``; see ``series``.
        reasons: How many were refused, by reason.
        shown: The first few of them.
        problem: Why the file could not be read, or not to its end.
    """

    file: str
    format: str = AUTO
    lines: int = 0
    inserted: int = 0
    duplicates: int = 0
    refused: int = 0
    capped: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    shown: list[RefusedLine] = msgspec.field(default_factory=list)
    problem: str | None = None

    def refuse(self, refused: RefusedLine) -> None:
        """Count a line that is no event."""
        self.refused += 1
        self.reasons[refused.reason] += 1
        if len(self.shown) < SHOWN_MAX:
            self.shown.append(refused)


class _Batch:
    """Events that go into one transaction, each under the number of its line."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.events: list[EventIn] = []
        self.tails: dict[int, Tail] = {}

    def add(self, number: int, event: EventIn, tail: Tail) -> None:
        self.numbers.append(number)
        self.events.append(event)
        self.tails[number] = tail


class Importer:
    """Imports files one after the other.

    Args:
        writer: Stores events.
        batch_size: Events in one transaction; whoever interrupts an import leaves whole batches behind.
        now: UTC; for events ahead of it.
        templates: Applied to endpoints; None leaves them as they are. The ids of events do not depend on it.
    """

    def __init__(self, writer: EventWriter, batch_size: int, now: datetime, templates: Templates | None = None) -> None:
        self._writer = writer
        self._templates = templates
        self._batch_size = batch_size
        self._now = now

    def run(
        self,
        report: FileReport,
        stream: BinaryIO,
        on_read: OnRead,
        *,
        service: str,
        json_service: str | None = None,
    ) -> None:
        """Import one file.

        Args:
            report: Names file and format; the rest is filled in, batch by batch.
            stream: The file, opened for reading bytes.
            on_read: Told of progress, in bytes of the file.
            service: The service whose access log it is.
            json_service: The service of JSON events that name none; None refuses those.

        Raises:
            UnavailableError: The database is away; the batches before stay.
        """
        log = LogFile(stream, on_read)
        numbered = ((number, line) for number, line in enumerate(log.lines(), 1) if line.strip())
        first = list(islice(numbered, DETECTION_LINES))
        if report.format == AUTO:
            report.format = detect([line for _, line in first])
        parser = make_parser(report.format, service=service, json_service=json_service, now=self._now)
        for batch in self._batches(log, chain(first, numbered), parser, report):
            self._store(batch, report)
        report.problem = log.problem

    def _batches(
        self, log: LogFile, numbered: Iterator[tuple[int, bytes]], parser: LineParser, report: FileReport
    ) -> Iterator[_Batch]:
        occurrences = Occurrences()
        batch = _Batch()
        for number, line in numbered:
            report.lines += 1
            try:
                event = parser.parse(line, complete=log.complete)
            except RefusedLineError as ex:
                report.refuse(RefusedLine(number, ex.reason, ex.detail))
                continue
            batch.add(number, event, occurrences.tail(event.service, line))
            if len(batch.events) >= self._batch_size:
                yield batch
                batch = _Batch()
        yield batch

    def _store(self, batch: _Batch, report: FileReport) -> None:
        prepared, errors = prepare(batch.numbers, batch.events, self._now)
        written: Written = self._writer.write(
            prepared,
            sender=SENDER,
            rejected=errors,
            batch_size=self._batch_size,
            tails=[batch.tails[number] for number in prepared.indexes],
            # A file that was imported before begins with what is there already.
            likely_new=report.duplicates == 0,
            templates=self._templates,
        )
        report.inserted += written.inserted
        report.duplicates += written.duplicates
        report.capped += written.capped
        for error in (*errors, *written.errors):
            report.refuse(RefusedLine(error.index, describe(error.errors)))
