"""The table ``[club]`` of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

from kernel import Table
from plugins.club.jsonpath import parse_path
from plugins.club.mapping import Mapper
from plugins.club.model import DatasetName, Feature

ENV_PREFIX = "env:"

_PORT_MAX = 65535

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# What fetching itself has to say, or what would talk to somebody else.
_RESERVED = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "if-modified-since", "if-none-match", "range"}
    | {"te", "transfer-encoding", "upgrade"}
)
_CREDENTIALS = re.compile(r"auth|cookie|key|pass|secret|token", re.IGNORECASE)


class Source(Table, frozen=True):
    """An API and what to take out of it. See the configuration file for each key."""

    url: str
    dataset: DatasetName
    feature: Feature | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    items: str = ""
    mapping: dict[str, str] = msgspec.field(default_factory=dict)
    next: str | None = None


class ClubSettings(Table, frozen=True):
    """Where the community's figures come from, and how patient to be."""

    sources: dict[str, Source] = msgspec.field(default_factory=dict)
    schedule: str = "every 15m"
    stale_after_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    connect_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    total_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    max_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 16 * 1024 * 1024
    max_pages: Annotated[int, msgspec.Meta(ge=1)] = 100
    retries: Annotated[int, msgspec.Meta(ge=0, le=20)] = 3
    retry_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    per_host: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2

    def __post_init__(self) -> None:
        problems = [f"{name}.{text}" for name, source in self.sources.items() for text in _problems(source)]
        if problems:
            raise ValueError(f"sources: {'; '.join(problems)}")


def _problems(source: Source) -> Iterator[str]:
    """List what is wrong with a source. Values that may be secret are not repeated."""
    if problem := _url_problem(source.url):
        yield f"url: {problem}"
    for field, text in (("items", source.items), ("next", source.next or "")):
        try:
            parse_path(text)
        except ValueError as ex:
            yield f"{field}: {ex}"
    try:
        Mapper(source.dataset, source.mapping, source.feature)
    except ValueError as ex:
        yield f"mapping.{ex}"
    for name, value in source.headers.items():
        if problem := _header_problem(name, value):
            yield f"headers.{name}: {problem}"


def _url_problem(text: str) -> str | None:
    # Imported where there is a source: it takes a tenth of a second, which a service without one need not pay.
    import httpx

    try:
        url = httpx.URL(text)
        host = url.host
    except (httpx.InvalidURL, UnicodeError):  # the latter of a name that IDNA refuses
        return "is no URL"
    if url.scheme not in {"http", "https"} or not host:
        return "expected http:// or https:// and a host"
    if "%" in host or not 0 < (url.port or 1) <= _PORT_MAX:
        return "is no URL"
    if url.userinfo:
        return "holds a user or password; send a header with a value of env:NAME"
    return None


def _header_problem(name: str, value: str) -> str | None:
    if not _HEADER_NAME.match(name):
        return "is no name of a header"
    if name.lower() in _RESERVED:
        return "is for Tiercel to send"
    if value.startswith(ENV_PREFIX):
        fits = _VARIABLE.match(value.removeprefix(ENV_PREFIX))
        return None if fits else f"expected {ENV_PREFIX} and the name of a variable"
    if _CREDENTIALS.search(name):
        return f"looks like a secret; expected {ENV_PREFIX} and the name of a variable that holds it"
    return None if is_header_value(value) else "holds characters that no header may"


def is_header_value(value: str) -> bool:
    """Tell whether a text can be sent as the value of a header."""
    return value.isascii() and value.isprintable() and value == value.strip()
