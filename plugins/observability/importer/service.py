"""Import log files: read lines, parse them into events, store these in batches.

The id of an event is derived from its service, its line, and how many identical lines precede it in the file. So a file
can be imported again after it grew, was renamed or compressed, and nothing is stored twice. Two files of one service
that contain the same line share its event.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import BinaryIO

import msgspec

from plugins.observability.access import SYSTEM, Owner
from plugins.observability.event_ids import IdSuffix, derive_suffix
from plugins.observability.export_trailer import TrailerCheck, WrongTrailerError
from plugins.observability.importer.detection import JSON, detect_format
from plugins.observability.importer.events import LineParser, ParsedLine, RefusedLineError
from plugins.observability.importer.files import LogFile
from plugins.observability.importer.parsers import AUTO, join_errors, make_parser
from plugins.observability.ingest.normalize import normalize
from plugins.observability.ingest.service import IngestService
from plugins.observability.models import EventIn
from plugins.observability.path_templates import Templates

OnRead = Callable[[float], None]
Say = Callable[[str], None]
SENDER = "import"
NO_TRAILER = "This looks like an export without its last line: it was cut off, or is a part of one."
SHOWN_MAX = 5
EXAMPLE_MAX = 200
# What follows a format is told from many lines.
DETECTION_LINES = 200
# Takes some 200 MB. Identical lines of a log are close to each other: they share their second.
REMEMBERED_LINES = 1_000_000
_DIGEST_BYTES = 16


class RefusedLine(msgspec.Struct, frozen=True):
    """A line that could not be converted to an event.

    Args:
        line: Its number, from 1.
        reason: What is wrong; the same for all lines with this fault.
        detail: The part that differs between lines.
    """

    line: int
    reason: str
    detail: str = ""


class FileReport(msgspec.Struct):
    """The outcome of a file.

    Args:
        file: Its name as given.
        format: As given, or as detected.
        lines: How many lines it has, blank ones not counted.
        inserted: Lines whose events are stored now.
        replaced: Lines whose events were stored before with other details, which are replaced.
        duplicates: Lines whose events were stored before.
        differing: Those of the duplicates whose stored event has other details.
        refused: The other lines.
        repaired: Lines, inserted or stored before, of which only a part was understood.
        capped: Lines, inserted or stored before, whose events went to ``__other__``; see ``series``.
        notes: What is assumed about the format, and what else should be known.
        repairs: How many lines were repaired, by what is wrong with them.
        examples: The part of the first of these lines that is not understood, without texts, by what is wrong.
        reasons: How many lines were refused, by reason.
        shown: The first refused lines.
        problem: Why the file could not be read, or not to its end.
    """

    file: str
    format: str = AUTO
    lines: int = 0
    inserted: int = 0
    replaced: int = 0
    duplicates: int = 0
    differing: int = 0
    refused: int = 0
    repaired: int = 0
    capped: int = 0
    notes: list[str] = msgspec.field(default_factory=list)
    repairs: Counter[str] = msgspec.field(default_factory=Counter)
    examples: dict[str, str] = msgspec.field(default_factory=dict)
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    shown: list[RefusedLine] = msgspec.field(default_factory=list)
    problem: str | None = None

    def with_example(self, repair: str) -> str:
        """Return what is wrong with repaired lines, and the example."""
        example = self.examples[repair]
        return f"{repair} ({example})" if example else repair

    def refuse(self, refused: RefusedLine) -> None:
        """Count a refused line."""
        self.refused += 1
        self.reasons[refused.reason] += 1
        if len(self.shown) < SHOWN_MAX:
            self.shown.append(refused)


class LineIds:
    """Id suffixes for the lines of one file: different for identical lines, and the same in every import.

    If a million different lines separate two identical ones, the second is taken for the first, imported again.

    Args:
        remembered: How many different lines are remembered.
        owner: Whose file it is.
    """

    def __init__(self, remembered: int = REMEMBERED_LINES, owner: Owner = SYSTEM.owner) -> None:
        # Ids from before there were accounts have no such part.
        self._owner = () if owner == SYSTEM.owner else (owner.id_part,)
        self._remembered = remembered
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def next_suffix(self, service: str, line: bytes) -> IdSuffix:
        """Return the id suffix of the next line; see ``event_ids``."""
        digest = hashlib.blake2b(line, digest_size=_DIGEST_BYTES).digest()
        count = self._counts.get(digest, 0)
        self._counts[digest] = count + 1
        if count:
            self._counts.move_to_end(digest)
        elif len(self._counts) > self._remembered:
            self._counts.popitem(last=False)
        return derive_suffix(*self._owner, service.encode(), digest, count.to_bytes(8, "big"))


class _Batch(msgspec.Struct):
    """Events that go into one transaction, with the numbers of their lines."""

    line_numbers: list[int] = []
    events: list[EventIn] = []
    id_suffixes: list[IdSuffix] = []


class Importer:
    """Imports files one after the other.

    Args:
        ingest: Stores events.
        batch_size: Events in one transaction; an import that is interrupted has stored whole batches.
        now: UTC; events may be a day ahead of it.
        templates: Applied to endpoints; None leaves them as they are. The ids of events do not depend on it.
        replace: Whether events of the same lines that are stored already are replaced by what is read now.
        say: Called with what should be known at once.
        owner: Whose events they are.
    """

    def __init__(
        self,
        ingest: IngestService,
        batch_size: int,
        now: datetime,
        templates: Templates | None = None,
        *,
        replace: bool = False,
        say: Say = lambda _text: None,
        owner: Owner = SYSTEM.owner,
    ) -> None:
        self._ingest = ingest
        self._batch_size = batch_size
        self._now = now
        self._templates = templates
        self._replace = replace
        self._say = say
        self._owner = owner

    def import_file(
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
            report: Has file and format; updated after each batch.
            stream: The file, opened for reading bytes.
            on_read: Called with the number of bytes of the file that were read.
            service: The service whose access log it is.
            json_service: The service of JSON events that have none; None rejects those.

        Raises:
            UnavailableError: The database is unavailable; earlier batches are stored.
        """
        log = LogFile(stream, on_read)
        numbered = ((number, line) for number, line in enumerate(log.lines(), 1) if line.strip())
        first = list(islice(numbered, DETECTION_LINES))
        if report.format == AUTO:
            detection = detect_format(line for _, line in first)
            report.format, report.notes = detection.name, list(detection.notes)
        parser = make_parser(report.format, service=service, json_service=json_service, now=self._now)
        report.notes += parser.notes
        for note in report.notes:
            self._say(f"{report.file}: {note}")
        for batch in self._batches(log, chain(first, numbered), parser, report):
            self._store(batch, report)
        report.problem = log.problem

    def _batches(
        self, log: LogFile, numbered: Iterator[tuple[int, bytes]], parser: LineParser, report: FileReport
    ) -> Iterator[_Batch]:
        ids = LineIds(owner=self._owner)
        trailers = TrailerCheck()
        batch = _Batch()
        for number, line in numbered:
            try:
                if report.format == JSON and trailers.is_trailer(line):
                    continue
                parsed = parser.parse(line, complete=log.complete)
                if parsed is None:
                    continue
                report.lines += 1
            except RefusedLineError as ex:
                report.lines += 1
                report.refuse(RefusedLine(number, ex.reason, ex.detail))
                continue
            except WrongTrailerError as ex:
                report.lines += 1
                report.refuse(RefusedLine(number, str(ex)))
                continue
            self._count_repair(report, number, parsed)
            batch.line_numbers.append(number)
            batch.events.append(parsed.event)
            batch.id_suffixes.append(ids.next_suffix(parsed.event.service, line))
            if len(batch.events) >= self._batch_size:
                yield batch
                batch = _Batch()
        yield batch
        if trailers.is_missing:
            report.notes.append(NO_TRAILER)
            self._say(f"{report.file}: {NO_TRAILER}")

    def _count_repair(self, report: FileReport, number: int, parsed: ParsedLine) -> None:
        if parsed.repair is None:
            return
        report.repaired += 1
        report.repairs[parsed.repair] += 1
        # Of many lines that are wrong in one way the first is enough.
        if report.repairs[parsed.repair] == 1:
            report.examples[parsed.repair] = parsed.detail[:EXAMPLE_MAX]
            self._say(f"{report.file}:{number}: {report.with_example(parsed.repair)}")

    def _store(self, batch: _Batch, report: FileReport) -> None:
        normalized, errors = normalize(batch.line_numbers, batch.events, self._now, batch.id_suffixes)
        stored = self._ingest.store(
            normalized,
            sender=SENDER,
            owner=self._owner,
            rejected=errors,
            batch_size=self._batch_size,
            # A file that was imported before begins with duplicates.
            likely_new=report.duplicates + report.replaced == 0,
            known="replace" if self._replace else "compare",
            templates=self._templates,
        )
        report.inserted += stored.inserted
        report.replaced += stored.replaced
        report.duplicates += stored.duplicates
        report.differing += stored.differing
        report.capped += stored.capped
        for error in (*errors, *stored.errors):
            report.refuse(RefusedLine(error.index, join_errors(error.errors)))
