"""CSV files of a resource: a template, an export, and an import that stores all of a file or nothing.

A file has a header with the fields that clients set. It is UTF-8, with or without a byte order mark, and separated by
commas, semicolons or tabs, as spreadsheets write it. Cells that a spreadsheet would take for a formula are exported
with an apostrophe in front, which an import removes: https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import psycopg
from psycopg import Connection

from kernel.contracts import Route
from kernel.conversion import convert_fields, escape_formula, strip_bom, struct_fields
from kernel.errors import ApiError, InvalidError, MalformedError, TooLargeError
from kernel.http.request import RawBody
from kernel.http.resources import Resource, Values
from kernel.http.response import Response, StreamingResponse
from kernel.identity import Identity

T = TypeVar("T", bound=msgspec.Struct)
MEDIA_TYPE = "text/csv; charset=utf-8"
ROWS_MAX = 5_000
# Of lines with errors, how many an answer names.
_ERRORS_MAX = 100
_DELIMITERS = (",", ";", "\t")


class ImportQuery(msgspec.Struct, frozen=True):
    """Parameters of an import.

    Args:
        dry_run: Whether to check the file only, and store nothing.
    """

    dry_run: bool = False


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did, or would do.

    Args:
        created: How many rows are new.
        updated: How many rows changed.
        unchanged: How many rows were as the file has them.
    """

    created: int
    updated: int
    unchanged: int


class CsvFiles(Generic[T]):
    """The CSV files of a resource, and their routes ``template.csv``, ``export.csv`` and ``import/``.

    Args:
        resource: The resource.
        key: The fields that identify a row: one that is there already is changed.
    """

    MAX_BYTES: ClassVar = 2 * 1024 * 1024

    def __init__(self, resource: Resource[T], key: Sequence[str] = ("slug",)) -> None:
        self._resource = resource
        self._key = tuple(key)
        self._columns = tuple(struct_fields(resource.body))
        self._by_slug = {name: each for name, each in resource.references.items() if each.slug is not None}
        self._file_name = f"{resource.path.rstrip('/').rpartition('/')[2]}.csv"

    def routes(self) -> Sequence[Route]:
        """Return the routes."""

        # Functions, because parts of the name of a path differ from resource to resource.
        def template(identity: Identity) -> Response[StreamingResponse]:
            """Return a CSV file with the header that an import takes."""
            self._resource.authorize("list", identity)
            return self._download(self.template())

        def export(identity: Identity) -> Response[StreamingResponse]:
            """Return all rows as a CSV file, which an import takes again."""
            self._resource.authorize("list", identity)
            return self._download(self.export(identity))

        def import_file(body: RawBody, query: ImportQuery, identity: Identity) -> ImportReport:
            """Create and change rows as a CSV file has them: all, or none if a line is wrong."""
            self._resource.authorize("create", identity)
            self._resource.authorize("update", identity)
            return self.load(body.content, identity, dry_run=query.dry_run)

        path, file = self._resource.path, {200: {"text/csv": str}}
        return [
            Route(path=f"{path}template.csv", policy="read", handler=template, responses=file),
            Route(path=f"{path}export.csv", policy="read", handler=export, responses=file),
            Route(
                path=f"{path}import/",
                policy="write",
                method="POST",
                handler=import_file,
                body_max_bytes=self.MAX_BYTES,
                accepts={"text/csv": str},
            ),
        ]

    def _download(self, text: str) -> Response[StreamingResponse]:
        headers = {"Content-Disposition": f'attachment; filename="{self._file_name}"'}
        return Response(StreamingResponse([text.encode()], MEDIA_TYPE), headers=headers)

    def template(self) -> str:
        """Return a file with a header only."""
        return _write([self._columns])

    def export(self, identity: Identity) -> str:
        """Return all rows that an identity sees."""
        with self._resource.transaction(identity) as connection:
            rows = self._resource.select(connection, identity)
            slugs = {
                name: {number: slug for slug, number in self._resource.numbers(connection, each, identity).items()}
                for name, each in self._by_slug.items()
            }
        lines = [[_cell(slugs.get(name, {}).get(value, value)) for name, value in self._values(row)] for row in rows]
        return _write([self._columns, *lines])

    def _values(self, row: T) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(row, name)) for name in self._columns)

    def load(self, content: bytes, identity: Identity, *, dry_run: bool = False) -> ImportReport:
        """Create and change rows as a file has them.

        Args:
            content: The file.
            identity: Who imports it.
            dry_run: Whether to store nothing.

        Raises:
            InvalidError: Lines are wrong; ``errors`` names them. Nothing is stored.
            MalformedError: It is no CSV, or not UTF-8.
            TooLargeError: It has too many lines.
        """
        lines = self._read(content)
        counts = {"created": 0, "updated": 0, "unchanged": 0}
        errors: dict[str, Sequence[str]] = {}
        with self._resource.transaction(identity) as connection:
            slugs = {name: self._resource.numbers(connection, each, identity) for name, each in self._by_slug.items()}
            present = {
                self._key_of(msgspec.structs.asdict(row)): row for row in self._resource.select(connection, identity)
            }
            seen: dict[tuple[Any, ...], int] = {}
            for number, cells in lines:
                try:
                    values = self._resource.attach(self._convert(cells, slugs), identity)
                    key = self._key_of(values)
                    first = seen.setdefault(key, number)
                    if first != number:
                        raise InvalidError(errors={self._key[-1]: [f"Line {first} has the same."]})
                    with self._resource.savepoint(connection):
                        counts[self._store(connection, values, present.get(key), identity)] += 1
                except ApiError as ex:
                    errors[f"line {number}"] = _describe(ex)
                    if len(errors) == _ERRORS_MAX:
                        break
            if errors:
                raise InvalidError(f"Nothing was imported: {len(errors)} lines are wrong.", errors=errors)
            if dry_run:
                raise psycopg.Rollback
        return ImportReport(**counts)

    def _store(self, connection: Connection[Any], values: Values, present: T | None, identity: Identity) -> str:
        if present is None:
            self._resource.insert(connection, values, identity)
            return "created"
        if all(getattr(present, name, None) == value for name, value in values.items()):
            return "unchanged"
        row_id: int = present.id  # type: ignore[attr-defined] # each item of a resource has one
        changed = self._resource.modify(connection, row_id, values, identity)
        return "unchanged" if changed == present else "updated"

    def _key_of(self, values: Values) -> tuple[Any, ...]:
        return tuple(values.get(name) for name in self._key)

    def _convert(self, cells: Mapping[str, str], slugs: Mapping[str, Mapping[str, int]]) -> Values:
        """Convert the cells of a line to values; an empty one leaves its field at the default.

        Raises:
            InvalidError: Cells are wrong.
        """
        given: dict[str, Any] = {name: _text(cell) for name, cell in cells.items() if cell}
        missing = {}
        for name, numbers in slugs.items():
            if name in given:
                given[name] = numbers.get(given[name], given[name])
                if isinstance(given[name], str) and not given[name].isdecimal():
                    missing[name] = [f"There is no {name} {given.pop(name)!r:.80}."]
        values, errors = convert_fields(given, self._resource.body, strict=False)
        errors |= missing
        if errors:
            raise InvalidError(errors=errors)
        return msgspec.structs.asdict(self._resource.body(**values))

    def _read(self, content: bytes) -> list[tuple[int, dict[str, str]]]:
        """Return the lines of a file after its header, with their numbers.

        Raises:
            MalformedError: It is no CSV, or not UTF-8.
            InvalidError: The header is wrong, or a line has too few or too many cells.
            TooLargeError: It has too many lines.
        """
        try:
            text = strip_bom(content).decode()
        except UnicodeDecodeError as ex:
            line = content.count(b"\n", 0, ex.start) + 1
            raise MalformedError(
                "The file is not UTF-8.", detail=f"line {line}: byte 0x{content[ex.start]:02x}"
            ) from ex
        header_line = text.partition("\n")[0]
        delimiter = max(_DELIMITERS, key=header_line.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines: list[tuple[int, dict[str, str]]] = []
        errors: dict[str, Sequence[str]] = {}
        try:
            header = [cell.strip().lower() for cell in next(reader, [])]
            self._ensure_header(header)
            number = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(header):
                    errors[f"line {number}"] = [f"It has {len(cells)} cells, the header {len(header)}."]
                elif any(cell.strip() for cell in cells):
                    lines.append((number, dict(zip(header, map(str.strip, cells), strict=True))))
                number = reader.line_num + 1
                if len(lines) > ROWS_MAX or len(errors) == _ERRORS_MAX:
                    break
        except csv.Error as ex:
            raise MalformedError("The file is not valid CSV.", detail=f"line {reader.line_num}: {ex}") from ex
        if len(lines) > ROWS_MAX:
            raise TooLargeError(detail=f"the file has more than {ROWS_MAX} lines")
        if errors:
            raise InvalidError(f"Nothing was imported: {len(errors)} lines are wrong.", errors=errors)
        return lines

    def _ensure_header(self, header: Sequence[str]) -> None:
        unknown = (name for name in header if name not in self._columns)
        problems = [f"Unknown column {name!r:.80}." for name in islice(unknown, _ERRORS_MAX)]
        problems += [f"The column {name} is there twice." for name in self._columns if header.count(name) > 1]
        required = [name for name, field in struct_fields(self._resource.body).items() if field.required]
        problems += [f"The column {name} is missing." for name in required if name not in header]
        if problems:
            expected = f"Expected {', '.join(self._columns)}."
            raise InvalidError("The header is wrong.", errors={"line 1": [*problems, expected]})


def _describe(error: ApiError) -> Sequence[str]:
    if not error.errors:
        return [f"{error.message} {error.detail or ''}".strip()]
    return [f"{name}: {message}" for name, messages in error.errors.items() for message in messages]


def _write(lines: Sequence[Sequence[str]]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written).writerows(lines)
    return written.getvalue()


def _cell(value: Any) -> str:
    """Return a value as text that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return str(value)
    return escape_formula(value)


def _text(cell: str) -> str:
    """Return the text that ``_cell`` wrote."""
    text = cell.removeprefix("'")
    # One that nobody escaped may begin with an apostrophe all the same.
    return text if escape_formula(text) == cell else cell
