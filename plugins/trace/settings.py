"""The table ``[trace]`` of the configuration."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from kernel import Dataset, Secret, Table, env
from plugins.trace.datasets import DATASETS, mappable_fields

ApiVersion = Literal["2025-09-03", "2026-03-11"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# The last segment of the path of a URL, in which a title may precede the id.
_ID_IN_PATH = re.compile(rf"(?:^|[/-])({_ID.pattern})/?$", re.IGNORECASE)


class Source(Table, frozen=True):
    """Databases of Notion with the same columns, and which of these to export. The configuration file explains keys."""

    databases: tuple[str, ...] = ()
    data_sources: tuple[str, ...] = ()
    fields: dict[str, str] = msgspec.field(default_factory=dict)
    properties: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Normalize ids; keep invalid ones, which the validation of ``TraceSettings`` reports."""
        for name in ("databases", "data_sources"):
            ids = dict.fromkeys(parse_notion_id(each) or each for each in getattr(self, name))
            msgspec.structs.force_setattr(self, name, tuple(ids))


class TraceSettings(Table, frozen=True):
    """Where specifications are exported from, how often, and within which limits."""

    token: Annotated[Secret | None, env("NOTION_TOKEN")] = None
    webhook_token: Annotated[Secret | None, env("NOTION_WEBHOOK_TOKEN")] = None
    sources: dict[str, Source] = msgspec.field(default_factory=dict)
    schedule: str = "every 15m"
    full_schedule: str = "0 3 * * *"
    full_after_s: Positive = 172800.0
    stale_after_s: Positive = 7200.0
    webhook_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    api_url: str = "https://api.notion.com"
    api_version: ApiVersion = "2026-03-11"
    requests_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 180
    burst: Annotated[int, msgspec.Meta(ge=1)] = 10
    timeout_s: Positive = 60.0
    total_timeout_s: Positive = 3600.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=50)] = 8
    retry_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    retry_wait_max_s: Positive = 300.0

    def __post_init__(self) -> None:
        if not _is_http_url(self.api_url):
            raise ValueError("api_url: expected http:// or https:// and a host")
        problems = [f"{name}{text}" for name, source in self.sources.items() for text in _find_problems(name, source)]
        if problems:
            raise ValueError(f"sources: {'; '.join(problems)}")

    @property
    def idle_reason(self) -> str | None:
        """Why nothing can be exported; None if something can."""
        if not self.sources:
            return "no sources are configured: imported data are served"
        if self.token is None:
            return "NOTION_TOKEN is not set: imported data are served"
        return None

    @property
    def is_active(self) -> bool:
        """Whether there are sources, and a token to read them with."""
        return self.idle_reason is None

    @property
    def datasets(self) -> Sequence[Dataset]:
        """The datasets that have a source."""
        return [each for each in DATASETS if each.name in self.sources]


def parse_notion_id(text: str) -> str | None:
    """Return the id of a database or data source in the form that Notion returns; None if there is none.

    Args:
        text: An id, with or without dashes, or a URL as copied from Notion. The query string of a URL names views and
            pages of a database, and not the database.
    """
    text = text.strip()
    if _ID.fullmatch(text):
        return str(uuid.UUID(text))
    try:
        path = urlsplit(text).path if "://" in text else ""
    except ValueError:
        return None
    found = _ID_IN_PATH.search(path)
    return None if found is None else str(uuid.UUID(found[1]))


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and url.username is None
    except ValueError:
        return False


def _find_problems(name: str, source: Source) -> Iterator[str]:
    """List what is wrong with a source, as far as that can be known without Notion."""
    dataset = next((each for each in DATASETS if each.name == name), None)
    if dataset is None:
        yield f": no such dataset; there are {', '.join(each.name for each in DATASETS)}"
        return
    if not source.databases and not source.data_sources:
        yield ": expected databases or data_sources, to read from"
    for key, ids in (("databases", source.databases), ("data_sources", source.data_sources)):
        yield from (
            f".{key}: {text!r:.120} is neither an id of Notion's nor a URL with one"
            for text in ids
            if not parse_notion_id(text)
        )
    known = mappable_fields(dataset)
    yield from (
        f".fields.{field}: no such field; there are {', '.join(known)}"
        for field in sorted(source.fields.keys() - {*known})
    )
    yield from _find_empty_names("fields", source.fields)
    yield from _find_empty_names("properties", source.properties)


def _find_empty_names(key: str, columns: Mapping[str, str]) -> Iterator[str]:
    for field, column in columns.items():
        if not field.strip() or not column.strip():
            yield f".{key}: {field!r} = {column!r}: expected a name, and the name or id of a column"
