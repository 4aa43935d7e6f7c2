"""Notion's client, counted: one attempt a call, every failure named."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, cast

import httpx
from notion_client import Client
from notion_client.errors import HTTPResponseError, NotionClientErrorBase, RequestTimeoutError

from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.failures import read_failure
from plugins.trace.settings import TraceSettings

# Speaks of requests and of their failures to nobody: we do.
_LOG = logging.getLogger("plugins.trace.notion.sdk")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False
# A request that could not be sent is not better the next time. Their words may hold headers, and so the token.
_NOT_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)
# What each object has, without which nothing can be read from it.
_PARTS: Mapping[Any, tuple[str, type]] = {
    "database": ("data_sources", list),
    "data_source": ("properties", dict),
    "page": ("properties", dict),
    "list": ("results", list),
}


class CountingClient(httpx.Client):
    """An HTTP client that knows how much came, and waits for no answer longer than it may.

    Args:
        timeout_s: For a request as a whole; what httpx calls a timeout begins anew with every piece that comes.
        check: Called with every piece that comes; may raise to give up.
    """

    requests = 0
    received_bytes = 0
    date: datetime | None = None

    def __init__(self, timeout_s: float, check: Callable[[], None]) -> None:
        super().__init__(verify=_tls())
        self._timeout_s = timeout_s
        self._check = check

    def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        """Send a request and count it, whatever becomes of it."""
        self.requests += 1
        deadline_s = time.monotonic() + self._timeout_s
        response = super().send(request, **{**kwargs, "stream": True})
        try:
            self._read_date(response.headers.get("date", ""))
            given = cast("httpx.SyncByteStream", response.stream)
            response.stream = _Pieces(given, lambda piece: self._take(request, piece, deadline_s))
            response.read()
        except BaseException:
            response.close()
            raise
        return response

    def _take(self, request: httpx.Request, piece: bytes, deadline_s: float) -> None:
        self.received_bytes += len(piece)
        self._check()
        if time.monotonic() > deadline_s:
            raise httpx.ReadTimeout("the answer takes too long", request=request)

    def _read_date(self, text: str) -> None:
        with suppress(ValueError, TypeError):
            moment = parsedate_to_datetime(text)
            # One without an offset says nothing.
            self.date = moment if moment.tzinfo is not None else self.date


class _Pieces(httpx.SyncByteStream):
    """What comes, shown to somebody piece by piece."""

    def __init__(self, given: httpx.SyncByteStream, show: Callable[[bytes], None]) -> None:
        self._given = given
        self._show = show

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._given:
            self._show(piece)
            yield piece

    def close(self) -> None:
        self._given.close()


def make_client(settings: TraceSettings, http: httpx.Client) -> Client:
    """Make a client of Notion that tries once: what is tried again, and when, is decided with everybody's budget.

    Args:
        settings: Address, version and token.
        http: What sends.

    Raises:
        NotionError: The token cannot be one, or the address.
    """
    token = "" if settings.token is None else settings.token.reveal()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NotionError("refused", "NOTION_TOKEN is no token: it is empty, or has characters that none has")
    try:
        return Client(
            client=http,
            auth=token,
            base_url=settings.api_url.rstrip("/"),
            notion_version=settings.api_version,
            timeout_ms=int(settings.timeout_s * 1000),
            retry=False,
            logger=_LOG,
            log_level=logging.CRITICAL,
        )
    except httpx.InvalidURL:
        raise NotionError("refused", "trace.api_url is no address") from None


def attempt(call: Callable[[], Any], expected: str) -> dict[str, Any]:
    """Return the object that a call answers.

    What went wrong is told by the error alone: its cause might hold what nobody should see.

    Args:
        call: Asks Notion.
        expected: What the answer says it is: ``page``, ``list``.

    Raises:
        NotionError: There is none, or none that can be used.
    """
    try:
        answer = call()
    except RequestTimeoutError:
        raise NotionError("timeout", "no answer in time", retry=True) from None
    except HTTPResponseError as ex:
        raise read_failure(ex.status, ex.body, ex.headers.get("retry-after"), datetime.now(UTC)) from None
    except (NotionClientErrorBase, *_NOT_SENT) as ex:
        raise NotionError("refused", f"the request cannot be sent: {type(ex).__name__}") from None
    except httpx.RequestError as ex:
        raise NotionError("cut", f"the connection failed: {type(ex).__name__}: {ex}", retry=True) from None
    except ValueError:
        raise NotionError("cut", "an answer is no JSON", retry=True) from None
    if not isinstance(answer, dict) or not _is_whole(answer, expected):
        raise NotionError("cut", f"an answer is no {expected} of Notion's", retry=True)
    return answer


def _is_whole(answer: dict[str, Any], expected: str) -> bool:
    kind = answer.get("object")
    name, type_ = _PARTS.get(kind, ("type", str))
    return kind in (expected, "property_item") and isinstance(answer.get(name), type_)


@cache
def _tls() -> ssl.SSLContext:
    # Reading all root certificates takes 20 ms: once a process, not once an export.
    return httpx.create_ssl_context()
