"""``tiercel trace check``: compare the configured sources with Notion, without exporting anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kernel import Dataset, Services
from plugins.trace.notion import connect
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import is_live
from plugins.trace.notion.schema import read_schema
from plugins.trace.settings import Source, TraceSettings
from plugins.trace.store import find_columns
from plugins.trace.sync.mapping import ColumnMapping, MappingProblem, ProblemKind, Row, as_text, map_columns
from plugins.trace.sync.relations import DatasetRows

if TYPE_CHECKING:
    from plugins.trace.notion.client import NotionClient

State = Literal["ok"] | ProblemKind
# A renamed column is found by its id.
_GOOD_STATES = frozenset({"ok", "renamed"})
# Errors that concern one database or data source; after any other the other requests would fail as well.
_SINGLE_OBJECT_ERRORS = frozenset({"not_found", "invalid"})
_HOW_TO_SHARE = "in Notion, open it, and under ••• and Connections add yours"
_SAMPLE_CHARACTERS_MAX = 60


# --- what a check finds ----------------------------------------------------------------------------------------------


class FieldCheck(msgspec.Struct, frozen=True):
    """A field, and the column that fills it.

    Args:
        field: Of the item.
        column: As configured, or the title where nothing is.
        type: Of the column; None if there is none.
        state: ``ok``, or the kind of problem.
        detail: Of the problem, or a value from the first rows.
    """

    field: str
    column: str
    type: str | None
    state: State
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether an export can fill it."""
        return self.state in _GOOD_STATES


class DataSourceCheck(msgspec.Struct, frozen=True):
    """A data source.

    Args:
        id: Which one.
        title: For people.
        rows: On the first page of results.
        has_more: Whether there are further pages.
        fields: In the order of the configuration.
        notes: Warnings, which do not prevent an export.
        problems: Errors that do not concern a single field.
    """

    id: str
    title: str
    rows: int = 0
    has_more: bool = False
    fields: tuple[FieldCheck, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class SourceCheck(msgspec.Struct, frozen=True):
    """A source of the configuration.

    Args:
        source: Its name, which is that of the dataset.
        data_sources: Those that were found.
        problems: Those that were not.
    """

    source: str
    data_sources: tuple[DataSourceCheck, ...] = ()
    problems: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """The result of a check.

    Args:
        ok: Whether an export is possible.
        api_url: Of Notion.
        api_version: Of its API.
        problem: Why Notion could not be asked.
        sources: What was found of each.
    """

    ok: bool
    api_url: str
    api_version: str
    problem: str | None = None
    sources: tuple[SourceCheck, ...] = ()


def list_problems(source: SourceCheck) -> Iterator[str]:
    """List the problems of a source, each in one line."""
    yield from (f"{source.source}: {each}" for each in source.problems)
    for found in source.data_sources:
        yield from (f"{source.source}: {found.title or found.id}: {each}" for each in found.problems)
        for field in found.fields:
            if not field.ok:
                yield f"{source.source}: {field.field}: {field.column!r} {field.state}: {field.detail}"


# --- the check -------------------------------------------------------------------------------------------------------


def check_sources(services: Services, on_retry: Callable[[str], None]) -> Check:
    """Compare the configured sources with what Notion has.

    Args:
        services: Of this plugin.
        on_retry: Called with the reason when a request is retried.
    """
    settings = services.settings(TraceSettings)
    result = Check(ok=False, api_url=settings.api_url, api_version=settings.api_version)
    if settings.idle_reason:
        return msgspec.structs.replace(result, problem=settings.idle_reason)
    try:
        client = connect(services, time.sleep, on_retry)
        try:
            sources = _Checker(services, settings, client).check()
        finally:
            client.close()
    except NotionError as ex:
        return msgspec.structs.replace(result, problem=ex.reason)
    ok = not any(True for source in sources for _ in list_problems(source))
    return msgspec.structs.replace(result, ok=ok, sources=sources)


class _DataSourceIds(msgspec.Struct, frozen=True):
    """The data sources of a source, and what was not found."""

    ids: tuple[str, ...]
    problems: tuple[str, ...]


class _Checker:
    def __init__(self, services: Services, settings: TraceSettings, client: NotionClient) -> None:
        self._services = services
        self._settings = settings
        self._client = client
        self._data_sources: dict[str, _DataSourceIds] = {}

    def check(self) -> tuple[SourceCheck, ...]:
        datasets = self._settings.datasets
        # All of them first: relations of one source point to data sources of another.
        self._data_sources = {
            each.name: self._find_data_sources(self._settings.sources[each.name]) for each in datasets
        }
        return tuple(map(self._check_source, datasets))

    def _find_data_sources(self, source: Source) -> _DataSourceIds:
        ids = list(source.data_sources)
        problems: list[str] = []
        for database_id in source.databases:
            try:
                listed = [each["id"] for each in self._client.retrieve_database(database_id)["data_sources"]]
            except NotionError as ex:
                other = partial(self._client.retrieve_data_source, database_id)
                problems.append(self._explain(ex, other, "data_sources"))
                continue
            if not listed:
                problems.append(f"database {database_id} has no data source that is shared with the connection")
            ids += listed
        return _DataSourceIds(tuple(dict.fromkeys(ids)), tuple(problems))

    def _explain(self, error: NotionError, retrieve_other: Callable[[], Any], key: str) -> str:
        """Explain why an id was not found: it belongs under the other key, or is not shared."""
        if error.kind not in _SINGLE_OBJECT_ERRORS:
            raise error
        try:
            retrieve_other()
        except NotionError as ex:
            if ex.kind not in _SINGLE_OBJECT_ERRORS:
                raise
            return f"{error.reason}; {_HOW_TO_SHARE}"
        return f"{error.reason}; the id belongs under {key}"

    def _check_source(self, dataset: Dataset) -> SourceCheck:
        found = self._data_sources[dataset.name]
        problems = list(found.problems)
        checks: list[DataSourceCheck] = []
        for id_ in found.ids:
            try:
                checks.append(self._check_data_source(dataset, id_))
            except NotionError as ex:
                problems.append(self._explain(ex, partial(self._client.retrieve_database, id_), "databases"))
        return SourceCheck(dataset.name, tuple(checks), tuple(problems))

    def _check_data_source(self, dataset: Dataset, id_: str) -> DataSourceCheck:
        source = self._settings.sources[dataset.name]
        schema = read_schema(self._client.retrieve_data_source(id_))
        earlier = find_columns(self._services.db, dataset.name, id_)
        mapping = map_columns(dataset, source, schema, earlier, self._settings.sources)
        first_page = self._client.query_data_source(id_, filter_properties=list(mapping.property_ids))
        pages = [each for each in first_page["results"] if is_live(each)]
        rows: list[Row] = []
        problems: list[str] = []
        try:
            rows = [mapping.make_row(id_, each) for each in pages]
        except KeyError:
            problems = ["rows have no properties: the connection lacks the capability to read content"]
        except (ValueError, TypeError) as ex:
            problems = [str(ex)]
        rejected = [each.reason for each in DatasetRows(dataset, rows).rejected]
        notes: list[str] = []
        if rejected:
            note = f"{len(rejected)} of the first {len(rows)} rows would be rejected; the first: {rejected[0]}"
            (notes if len(rejected) < len(rows) else problems).append(note)
        return DataSourceCheck(
            id=id_,
            title=schema.title,
            rows=len(pages),
            has_more=bool(first_page.get("has_more")),
            fields=tuple(
                _check_fields(dataset, source, mapping, self._find_unread_targets(dataset, mapping, source), rows)
            ),
            notes=tuple(notes),
            problems=tuple(problems),
        )

    def _find_unread_targets(
        self, dataset: Dataset, mapping: ColumnMapping, source: Source
    ) -> Iterator[MappingProblem]:
        """List relations to a data source that is not read, or is read for another dataset."""
        for column in mapping.columns:
            target = dataset.relations.get(column.field) if column.kind == "links" else None
            read = self._data_sources.get(target or "")
            points_to = column.property.target
            # If some data sources of the target were not found, this may be one of them.
            if read is not None and not read.problems and points_to is not None and points_to not in read.ids:
                detail = f"points to data source {points_to}, which trace.sources.{target} does not have"
                yield MappingProblem(column.field, source.fields[column.field], "no source", detail)


def _check_fields(
    dataset: Dataset,
    source: Source,
    mapping: ColumnMapping,
    unread_targets: Iterator[MappingProblem],
    rows: Sequence[Row],
) -> Iterator[FieldCheck]:
    title = mapping.title
    for field in ("name", dataset.key):
        if field not in source.fields:
            yield FieldCheck(field, title.name, title.type, "ok", _sample(row.fields[field] for row in rows))
    problems = {(each.field, each.column): each for each in (*mapping.problems, *unread_targets)}
    mapped: tuple[tuple[Mapping[str, str], Callable[[Row], Mapping[str, Any]]], ...] = (
        (source.fields, lambda row: row.fields),
        (source.properties, lambda row: row.properties),
    )
    for columns, values_of in mapped:
        for field, name in columns.items():
            column = mapping.by_name.get(name)
            kind = None if column is None else column.type
            if (problem := problems.get((field, name))) is not None:
                yield FieldCheck(field, name, kind, problem.kind, problem.detail)
            else:
                holds_pages = any(field in row.page_fields for row in rows)
                values = (values_of(row).get(field) for row in rows)
                yield FieldCheck(field, name, kind, "ok", _count_pages(values) if holds_pages else _sample(values))


def _sample(values: Iterator[Any]) -> str:
    text = next((shown for value in values if (shown := as_text(value))), "")
    short = text if len(text) <= _SAMPLE_CHARACTERS_MAX else f"{text[: _SAMPLE_CHARACTERS_MAX - 1]}…"
    return f"such as {short!r}" if text else "empty in all of the first rows"


def _count_pages(values: Iterator[Any]) -> str:
    return f"points to {len({page for each in values for page in each or ()})} pages"
