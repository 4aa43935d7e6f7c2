"""The table ``[trace]`` of the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from kernel import Secret, Table, env
from plugins.trace.datasets import DATASETS, mappable_fields
from plugins.trace.notion.ids import read_id

ApiVersion = Literal["2025-09-03", "2026-03-11"]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Source(Table, frozen=True):
    """Databases of Notion that are alike, and what to take out of them. See the configuration file for each key."""

    databases: tuple[str, ...] = ()
    data_sources: tuple[str, ...] = ()
    fields: dict[str, str] = msgspec.field(default_factory=dict)
    properties: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write every id as Notion does; what is none stays, for whoever names what is wrong."""
        for name in ("databases", "data_sources"):
            ids = dict.fromkeys(read_id(each) or each for each in getattr(self, name))
            msgspec.structs.force_setattr(self, name, tuple(ids))


class TraceSettings(Table, frozen=True):
    """Where specifications come from, and how patient to be."""

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
        if not _is_address(self.api_url):
            raise ValueError("api_url: expected http:// or https:// and a host")
        problems = [f"{name}{text}" for name, source in self.sources.items() for text in _problems(name, source)]
        if problems:
            raise ValueError(f"sources: {'; '.join(problems)}")

    @property
    def is_active(self) -> bool:
        """Whether there is something to read, and a token to read it with."""
        return self.token is not None and bool(self.sources)


def _is_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and url.username is None
    except ValueError:
        return False


def _problems(name: str, source: Source) -> Iterator[str]:
    """List what is wrong with a source, as far as that can be known without Notion."""
    dataset = next((each for each in DATASETS if each.name == name), None)
    if dataset is None:
        yield f": no such dataset; there are {', '.join(each.name for each in DATASETS)}"
        return
    if not source.databases and not source.data_sources:
        yield ": expected databases or data_sources, to read from"
    for key, ids in (("databases", source.databases), ("data_sources", source.data_sources)):
        yield from (
            f".{key}: {text!r:.120} is no id of Notion's, and no URL with one" for text in ids if not read_id(text)
        )
    known = mappable_fields(dataset)
    yield from (
        f".fields.{field}: no such field; there are {', '.join(known)}"
        for field in sorted(source.fields.keys() - {*known})
    )
    yield from _nameless("fields", source.fields)
    yield from _nameless("properties", source.properties)


def _nameless(key: str, columns: Mapping[str, str]) -> Iterator[str]:
    for field, column in columns.items():
        if not field.strip() or not column.strip():
            yield f".{key}: {field!r} = {column!r}: expected a name, and the name or id of a column"
