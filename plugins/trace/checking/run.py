"""Look at everything that an export would need, without exporting anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from kernel import Dataset, Services
from plugins.trace.checking.model import Check, DataSourceCheck, FieldCheck, SourceCheck, list_problems
from plugins.trace.export.exporting import exported_datasets
from plugins.trace.export.linking import SortedRows
from plugins.trace.export.mapping import Binding, Problem, bind
from plugins.trace.export.model import Row
from plugins.trace.export.rows import is_live
from plugins.trace.export.texts import as_text
from plugins.trace.freshness import Freshness
from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.connect import connect
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import read_schema
from plugins.trace.settings import Source, TraceSettings
from plugins.trace.store import find_columns

# About one database or data source; with anything else there is no use in asking on.
_OF_ONE = frozenset({"missing", "invalid"})
_SHARE = "in Notion, open it, and under ••• and Connections add yours"
_SAMPLE_CHARACTERS_MAX = 60


def check(services: Services, on_retry: Callable[[str], None]) -> Check:
    """Compare the configuration with what Notion has.

    Args:
        services: Of this plugin.
        on_retry: Told why something is tried again.
    """
    settings = services.settings(TraceSettings)
    found = Check(ok=False, api_url=settings.api_url, api_version=settings.api_version)
    if not settings.is_active:
        return msgspec.structs.replace(found, problem=Freshness(services).idle_reason())
    try:
        api = connect(services, time.sleep, on_retry)
        try:
            sources = _Checker(services, settings, api).sources()
        finally:
            api.close()
    except NotionError as ex:
        return msgspec.structs.replace(found, problem=ex.reason)
    ok = not any(True for source in sources for _ in list_problems(source))
    return msgspec.structs.replace(found, ok=ok, sources=sources)


class _Found(msgspec.Struct, frozen=True):
    """The data sources of a source, and what was not found."""

    ids: tuple[str, ...]
    problems: tuple[str, ...]


class _Checker:
    def __init__(self, services: Services, settings: TraceSettings, api: NotionApi) -> None:
        self._services = services
        self._settings = settings
        self._api = api
        self._found: dict[str, _Found] = {}

    def sources(self) -> tuple[SourceCheck, ...]:
        datasets = exported_datasets(self._settings)
        self._found = {each.name: self._find(self._settings.sources[each.name]) for each in datasets}
        return tuple(map(self._source, datasets))

    def _find(self, source: Source) -> _Found:
        ids = list(source.data_sources)
        problems: list[str] = []
        for database_id in source.databases:
            try:
                inside = [each["id"] for each in self._api.database(database_id)["data_sources"]]
            except NotionError as ex:
                problems.append(self._explain(ex, partial(self._api.data_source, database_id), "data_sources"))
                continue
            if not inside:
                problems.append(f"database {database_id} has no data source that the connection may see")
            ids += inside
        return _Found(tuple(dict.fromkeys(ids)), tuple(problems))

    def _explain(self, error: NotionError, ask_otherwise: Callable[[], Any], key: str) -> str:
        if error.kind not in _OF_ONE:
            raise error
        try:
            ask_otherwise()
        except NotionError as ex:
            if ex.kind not in _OF_ONE:
                raise
            return f"{error.reason}; {_SHARE}"
        return f"{error.reason}; the id belongs under {key}"

    def _source(self, dataset: Dataset) -> SourceCheck:
        found = self._found[dataset.name]
        problems = list(found.problems)
        checks: list[DataSourceCheck] = []
        for id_ in found.ids:
            try:
                checks.append(self._data_source(dataset, id_))
            except NotionError as ex:
                problems.append(self._explain(ex, partial(self._api.database, id_), "databases"))
        return SourceCheck(dataset.name, tuple(checks), tuple(problems))

    def _data_source(self, dataset: Dataset, id_: str) -> DataSourceCheck:
        source = self._settings.sources[dataset.name]
        schema = read_schema(self._api.data_source(id_))
        earlier = find_columns(self._services.db, dataset.name, id_)
        binding = bind(dataset, source, schema, earlier, self._settings.sources)
        page = self._api.query(id_, filter_properties=list(binding.property_ids))
        pages = [each for each in page["results"] if is_live(each)]
        rows: list[Row] = []
        problems: list[str] = []
        try:
            rows = [binding.row(id_, each) for each in pages]
        except KeyError:
            problems = ["rows come empty: the connection may not read content"]
        except (ValueError, TypeError) as ex:
            problems = [str(ex)]
        aside = [each.reason for each in SortedRows(dataset, rows).rejected]
        note = f"{len(aside)} of the first {len(rows)} rows would be kept aside; the first: {aside[0]}" if aside else ""
        notes = [note] if 0 < len(aside) < len(rows) else []
        problems += [note] if aside and not notes else []
        strays = self._strays(dataset, binding, source)
        fields = tuple(_fields(dataset, source, binding, strays, rows))
        has_more = bool(page.get("has_more"))
        return DataSourceCheck(id_, schema.title, len(pages), has_more, fields, tuple(notes), tuple(problems))

    def _strays(self, dataset: Dataset, binding: Binding, source: Source) -> Iterator[Problem]:
        """List relations that lead to a data source which is read for nothing, or for another dataset."""
        for column in binding.columns:
            target = dataset.relations.get(column.field) if column.kind == "links" else None
            there = self._found.get(target or "")
            leads_to = column.property.target
            # What was not found may be where it leads.
            if there is not None and not there.problems and leads_to is not None and leads_to not in there.ids:
                detail = f"leads to data source {leads_to}, which trace.sources.{target} does not have"
                yield Problem(column.field, source.fields[column.field], "no source", detail)


def _fields(
    dataset: Dataset, source: Source, binding: Binding, strays: Iterator[Problem], rows: Sequence[Row]
) -> Iterator[FieldCheck]:
    title = binding.title
    for field in ("name", dataset.key):
        if field not in source.fields:
            yield FieldCheck(field, title.name, title.type, "ok", _sample(row.fields[field] for row in rows))
    problems = {(each.field, each.property): each for each in (*binding.problems, *strays)}
    of_rows: tuple[tuple[Mapping[str, str], Callable[[Row], Mapping[str, Any]]], ...] = (
        (source.fields, lambda row: row.fields),
        (source.properties, lambda row: row.properties),
    )
    for columns, values in of_rows:
        for field, name in columns.items():
            column = binding.named.get(name)
            problem = problems.get((field, name))
            kind = None if column is None else column.type
            if problem is not None:
                yield FieldCheck(field, name, kind, problem.trouble, problem.detail)
            else:
                is_pages = any(field in row.pages for row in rows)
                given = (values(row).get(field) for row in rows)
                yield FieldCheck(field, name, kind, "ok", _pages(given) if is_pages else _sample(given))


def _sample(values: Iterator[Any]) -> str:
    text = next((shown for value in values if (shown := as_text(value))), "")
    short = text if len(text) <= _SAMPLE_CHARACTERS_MAX else f"{text[: _SAMPLE_CHARACTERS_MAX - 1]}…"
    return f"such as {short!r}" if text else "empty in all of the first rows"


def _pages(values: Iterator[Any]) -> str:
    return f"leads to {len({page for each in values for page in each or ()})} pages"
