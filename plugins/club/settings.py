"""The ``[club]`` table of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

from kernel import Table
from plugins.club.mapping import Mapper, parse_path
from plugins.club.models import DatasetName, Feature

ENV_PREFIX = "env:"

_PORT_MAX = 65535
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# Headers that the client sets itself, or that concern the connection and not the request.
_RESERVED_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "if-modified-since", "if-none-match", "range"}
    | {"te", "transfer-encoding", "upgrade"}
)
_SECRET_HEADER = re.compile(r"auth|cookie|key|pass|secret|token", re.IGNORECASE)


class Source(Table, frozen=True):
    """An API and how to map its answer to items. The configuration file documents each key."""

    url: str
    dataset: DatasetName
    feature: Feature | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    items: str = ""
    mapping: dict[str, str] = msgspec.field(default_factory=dict)
    next: str | None = None


class ClubSettings(Table, frozen=True):
    """The sources of community figures, and the limits of fetching them."""

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
        problems = [
            f"{name}.{problem}" for name, source in self.sources.items() for problem in _validate_source(source)
        ]
        if problems:
            raise ValueError(f"sources: {'; '.join(problems)}")


def is_header_value(value: str) -> bool:
    """Tell whether a text may be sent as the value of a header."""
    return value.isascii() and value.isprintable() and value == value.strip()


def _validate_source(source: Source) -> Iterator[str]:
    """Yield every problem of a source. Values that may be secret are not repeated."""
    if problem := _validate_url(source.url):
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
        if problem := _validate_header(name, value):
            yield f"headers.{name}: {problem}"


def _validate_url(text: str) -> str | None:
    """Return the problem of a URL, if any."""
    # Importing httpx takes 0.1 s, which a service without sources need not spend.
    import httpx

    try:
        url = httpx.URL(text)
        host = url.host
    except (httpx.InvalidURL, UnicodeError):  # the latter for a host that is not a valid IDNA name
        return "is not a valid URL"
    if url.scheme not in {"http", "https"} or not host:
        return "expected http:// or https:// and a host"
    if "%" in host or not 0 < (url.port or 1) <= _PORT_MAX:
        return "is not a valid URL"
    if url.userinfo:
        return "contains a user or password; send a header with a value of env:NAME instead"
    return None


def _validate_header(name: str, value: str) -> str | None:
    """Return the problem of a header, if any."""
    if not _HEADER_NAME.match(name):
        return "is not a valid header name"
    if name.lower() in _RESERVED_HEADERS:
        return "is set by Tiercel"
    if value.startswith(ENV_PREFIX):
        is_valid = _ENV_NAME.match(value.removeprefix(ENV_PREFIX))
        return None if is_valid else f"expected {ENV_PREFIX} and the name of an environment variable"
    if _SECRET_HEADER.search(name):
        return f"looks like a secret; expected {ENV_PREFIX} and the name of an environment variable that holds it"
    return None if is_header_value(value) else "contains characters that are not allowed in a header"
