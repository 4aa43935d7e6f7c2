"""Import log files: read lines, parse them into events, store these in batches.

The id of an event is derived from its service, its line, and how many identical lines precede it in the file. So a file
can be imported again after it grew, was renamed or compressed, and nothing is stored twice. Two files of one service
that contain the same line share its event.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain, islice
from typing import BinaryIO

import msgspec

from plugins.observability.access import SYSTEM, Owner
from plugins.observability.event_ids import IdSuffix, derive_suffix
from plugins.observability.export_trailer import TrailerCheck, WrongTrailerError
from plugins.observability.importer.detection import JSON, detect_format
from plugins.observability.importer.events import ParsedLine, RefusedLineError
from plugins.observability.importer.files import LogFile
from plugins.observability.importer.parsers import AUTO, join_errors, make_parser
from plugins.observability.ingest.normalize import normalize
from plugins.observability.ingest.service import IngestService
from plugins.observability.models import EventIn, ItemError
from plugins.observability.path_templates import Templates

OnRead = Callable[[float], None]
Say = Callable[[str], None]
SENDER = "import"
# Figures of a ``FileReport``.
COUNTS = ("lines", "inserted", "replaced", "duplicates", "refused", "repaired", "capped")
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

    def add(self, other: FileReport) -> None:
        """Count what another file had as well."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.differing += other.differing
        self.reasons += other.reasons
        self.repairs += other.repairs
        self.examples = other.examples | self.examples
        self.shown = (self.shown + other.shown)[:SHOWN_MAX]

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
        before: The last lines of the file before, if this one continues it: ``last_lines`` of its ids.
    """

    def __init__(
        self, remembered: int = REMEMBERED_LINES, owner: Owner = SYSTEM.owner, before: Mapping[bytes, int] | None = None
    ) -> None:
        # Ids from before there were accounts have no such part.
        self._owner = () if owner == SYSTEM.owner else (owner.id_part,)
        self._remembered = remembered
        self._counts: OrderedDict[bytes, int] = OrderedDict(before or {})

    def next_suffix(self, service: str, line: bytes) -> IdSuffix:
        """Return the id suffix of the next line; see ``event_ids``."""
        digest, count = self.skip(line)
        return derive_suffix(*self._owner, service.encode(), digest, count.to_bytes(8, "big"))

    def skip(self, line: bytes) -> tuple[bytes, int]:
        """Count the next line; return its digest, and how many identical lines precede it."""
        digest = hashlib.blake2b(line, digest_size=_DIGEST_BYTES).digest()
        count = self._counts.get(digest, 0)
        self._counts[digest] = count + 1
        if count:
            self._counts.move_to_end(digest)
        elif len(self._counts) > self._remembered:
            self._counts.popitem(last=False)
        return digest, count

    def last_lines(self, limit: int) -> dict[bytes, int]:
        """Return the digests of the last different lines, and how many there were of each."""
        found = {digest: self._counts[digest] for digest in islice(reversed(self._counts), limit)}
        return dict(reversed(found.items()))


class FileImport:
    """Lines of one file on their way into the database, in batches.

    Args:
        importer: Says how.
        report: Has file and format; updated after each batch.
        first: The first lines of the file, from which the format is detected if the report has none.
        service: The service whose access log it is.
        json_service: The service of JSON events that have none; None rejects those.
        ids: Of its lines.
    """

    def __init__(
        self,
        importer: Importer,
        report: FileReport,
        first: Sequence[bytes],
        *,
        service: str,
        json_service: str | None,
        ids: LineIds,
    ) -> None:
        self._importer = importer
        self.report = report
        self.ids = ids
        self._trailers = TrailerCheck()
        self._line_numbers: list[int] = []
        self._events: list[EventIn] = []
        self._id_suffixes: list[IdSuffix] = []
        if report.format == AUTO:
            detection = detect_format(first)
            report.format, report.notes = detection.name, list(detection.notes)
        self._parser = make_parser(report.format, service=service, json_service=json_service, clock=importer.clock)
        report.notes += self._parser.notes
        for note in report.notes:
            importer.say(f"{report.file}: {note}")

    def add(self, number: int, line: bytes, *, complete: bool = True) -> None:
        """Parse a line, and store the batch that it fills.

        Args:
            number: Of the line, from 1.
            line: Not blank.
            complete: False for the last line of a file if that has no line end.

        Raises:
            UnavailableError: The database is unavailable; earlier batches are stored, and ``store`` can be tried again.
        """
        try:
            if self.report.format == JSON and self._trailers.is_trailer(line):
                return
            parsed = self._parser.parse(line, complete=complete)
        except RefusedLineError as ex:
            self.report.lines += 1
            self.report.refuse(RefusedLine(number, ex.reason, ex.detail))
            return
        except WrongTrailerError as ex:
            self.report.lines += 1
            self.report.refuse(RefusedLine(number, str(ex)))
            return
        if parsed is None:
            return
        self.report.lines += 1
        self._count_repair(number, parsed)
        self._line_numbers.append(number)
        self._events.append(parsed.event)
        self._id_suffixes.append(self.ids.next_suffix(parsed.event.service, line))
        if len(self._events) >= self._importer.batch_size:
            self.store()

    def skip(self, line: bytes) -> None:
        """Take note of a line that is stored already."""
        self.ids.skip(line)
        if line.startswith(b"#"):
            # It may say what the fields of the lines below are.
            with suppress(RefusedLineError):
                self._parser.parse(line)

    @property
    def waiting(self) -> int:
        """How many events are not stored yet."""
        return len(self._events)

    def store(self) -> None:
        """Store the events of the lines that were added since the last batch.

        Raises:
            UnavailableError: The database is unavailable; nothing is stored, and it can be tried again.
        """
        report = self.report
        for error in self._importer.store(report, self._line_numbers, self._events, self._id_suffixes):
            report.refuse(RefusedLine(error.index, join_errors(error.errors)))
        self._line_numbers, self._events, self._id_suffixes = [], [], []

    def end(self) -> None:
        """Store the last batch, and say what the end of the file lacks.

        Raises:
            UnavailableError: As of ``store``.
        """
        self.store()
        if self._trailers.is_missing:
            self.report.notes.append(NO_TRAILER)
            self._importer.say(f"{self.report.file}: {NO_TRAILER}")

    def _count_repair(self, number: int, parsed: ParsedLine) -> None:
        report = self.report
        if parsed.repair is None:
            return
        report.repaired += 1
        report.repairs[parsed.repair] += 1
        # Of many lines that are wrong in one way the first is enough.
        if report.repairs[parsed.repair] == 1:
            report.examples[parsed.repair] = parsed.detail[:EXAMPLE_MAX]
            self._importer.say(f"{report.file}:{number}: {report.with_example(parsed.repair)}")


class Importer:
    """Imports files, one after the other or side by side.

    Args:
        ingest: Stores events.
        batch_size: Events in one transaction; an import that is interrupted has stored whole batches.
        clock: Returns the time, UTC; events may be a day ahead of it.
        templates: Applied to endpoints; None leaves them as they are. The ids of events do not depend on it.
        replace: Whether events of the same lines that are stored already are replaced by what is read now.
        say: Called with what should be known at once.
        owner: Whose events they are.
    """

    def __init__(
        self,
        ingest: IngestService,
        batch_size: int,
        clock: Callable[[], datetime],
        templates: Templates | None = None,
        *,
        replace: bool = False,
        say: Say = lambda _text: None,
        owner: Owner = SYSTEM.owner,
    ) -> None:
        self._ingest = ingest
        self.batch_size = batch_size
        self.clock = clock
        self._templates = templates
        self._replace = replace
        self.say = say
        self.owner = owner

    def import_file(
        self,
        report: FileReport,
        stream: BinaryIO,
        on_read: OnRead,
        *,
        service: str,
        json_service: str | None = None,
        before: Mapping[bytes, int] | None = None,
    ) -> LineIds:
        """Import one file; return the ids of its lines.

        Args:
            report: Has file and format; updated after each batch.
            stream: The file, opened for reading bytes.
            on_read: Called with the number of bytes of the file that were read.
            service: The service whose access log it is.
            json_service: The service of JSON events that have none; None rejects those.
            before: See ``LineIds``.

        Raises:
            UnavailableError: The database is unavailable; earlier batches are stored.
        """
        log = LogFile(stream, on_read)
        numbered = ((number, line) for number, line in enumerate(log.lines(), 1) if line.strip())
        first = list(islice(numbered, DETECTION_LINES))
        ids = LineIds(owner=self.owner, before=before)
        file = FileImport(
            self, report, [line for _, line in first], service=service, json_service=json_service, ids=ids
        )
        for number, line in chain(first, numbered):
            file.add(number, line, complete=log.complete)
        file.end()
        report.problem = log.problem
        return ids

    def store(
        self, report: FileReport, numbers: Sequence[int], events: Sequence[EventIn], id_suffixes: list[IdSuffix]
    ) -> Sequence[ItemError]:
        """Store the events of some lines, and count them; return the errors of those that are not valid.

        Raises:
            UnavailableError: The database is unavailable; nothing is stored.
        """
        normalized, errors = normalize(numbers, events, self.clock(), id_suffixes)
        stored = self._ingest.store(
            normalized,
            sender=SENDER,
            owner=self.owner,
            rejected=errors,
            batch_size=self.batch_size,
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
        return [*errors, *stored.errors]
