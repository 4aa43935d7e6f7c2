"""Send requests to Notion: paced by the rate limiter, retried while that may help, validated before they are used."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from typing import Any, cast

import httpx
from notion_client import Client
from notion_client.errors import HTTPResponseError, NotionClientErrorBase, RequestTimeoutError

from kernel import backoff_s
from kernel.http import outgoing_request
from plugins.trace.notion.errors import NotionError, classify_response
from plugins.trace.notion.pagination import PageCursors
from plugins.trace.notion.rate_limit import RateLimiter
from plugins.trace.settings import TraceSettings

PAGE_SIZE = 100
# The SDK logs requests and failures, headers included. We report both ourselves.
_SDK_LOG = logging.getLogger("plugins.trace.notion.sdk")
_SDK_LOG.addHandler(logging.NullHandler())
_SDK_LOG.propagate = False
# The request was never sent, and would not be the next time. Their messages may hold headers, and so the token.
_NOT_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)
# By type of object, the member without which nothing can be read from it.
_REQUIRED_MEMBERS: Mapping[Any, tuple[str, type]] = {
    "database": ("data_sources", list),
    "data_source": ("properties", dict),
    "page": ("properties", dict),
    "list": ("results", list),
}


class NotionClient:
    """A client of Notion's API. Close it.

    Args:
        settings: Address, token, timeouts and retries.
        limiter: Paces requests.
        sleep: Called with the seconds to wait between attempts; may raise to give up.
        on_retry: Called with the reason when a request is retried.

    Raises:
        NotionError: Token or address cannot be used.
    """

    def __init__(
        self,
        settings: TraceSettings,
        limiter: RateLimiter,
        sleep: Callable[[float], None],
        on_retry: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._limiter = limiter
        self._sleep = sleep
        self._on_retry = on_retry
        self._token = "" if settings.token is None else settings.token.reveal()
        self._http = _HttpClient(settings.timeout_s, lambda: sleep(0.0))
        self._sdk = _make_sdk_client(settings, self._token, self._http)
        self.retry_count = 0

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def request_count(self) -> int:
        """How many requests were sent, the failed ones included."""
        return self._http.request_count

    @property
    def received_bytes(self) -> int:
        """How much was received, as transferred."""
        return self._http.received_bytes

    def now(self) -> datetime:
        """Return the time of Notion's clock as of its latest response; of this machine's clock before the first."""
        return self._http.server_time or datetime.now(UTC)

    def retrieve_database(self, database_id: str) -> dict[str, Any]:
        """Return a database, which lists its data sources.

        Raises:
            NotionError: It does not exist, is not shared with the connection, or Notion does not respond.
        """
        return self._request(f"database {database_id}", "database", lambda: self._sdk.databases.retrieve(database_id))

    def retrieve_data_source(self, data_source_id: str) -> dict[str, Any]:
        """Return a data source with its schema.

        Raises:
            NotionError: As ``retrieve_database``.
        """
        return self._request(
            f"data source {data_source_id}",
            "data_source",
            lambda: self._sdk.data_sources.retrieve(data_source_id),
        )

    def query_data_source(self, data_source_id: str, **arguments: Any) -> dict[str, Any]:
        """Return one page of the rows of a data source.

        Args:
            data_source_id: Which one.
            **arguments: ``filter``, ``sorts``, ``start_cursor``, ``filter_properties``, ``in_trash``.

        Raises:
            NotionError: As ``retrieve_database``.
        """
        return self._request(
            f"rows of data source {data_source_id}",
            "list",
            lambda: self._sdk.data_sources.query(data_source_id, page_size=PAGE_SIZE, **arguments),
        )

    def retrieve_page(self, page_id: str) -> dict[str, Any]:
        """Return a page.

        Raises:
            NotionError: As ``retrieve_database``.
        """
        return self._request(f"page {page_id}", "page", lambda: self._sdk.pages.retrieve(page_id))

    def retrieve_property(self, page_id: str, property_id: str) -> Iterator[dict[str, Any]]:
        """Return one property of a page at its full length: a single item, or a list page by page.

        Raises:
            NotionError: As ``retrieve_database``.
        """
        name = f"property {property_id} of page {page_id}"
        cursors, cursor = PageCursors(), None
        while True:
            page = self._request(
                name,
                "list",
                partial(
                    self._sdk.pages.properties.retrieve,
                    page_id,
                    property_id,
                    start_cursor=cursor,
                    page_size=PAGE_SIZE,
                ),
            )
            yield page
            try:
                cursor = cursors.advance(page, has_new=bool(page.get("results")))
            except NotionError as ex:
                raise NotionError(ex.kind, f"{name}: {ex.reason}", retry=ex.retry) from None
            if cursor is None:
                return

    def _request(self, name: str, expected: str, send: Callable[[], Any]) -> dict[str, Any]:
        """Return the object that a request returns; retry as configured."""
        failures = 0
        while True:
            self._limiter.acquire()
            try:
                return _send_once(send, expected)
            except NotionError as ex:
                failures += 1
                error = self._describe(ex, name, failures)
            # Outside the handler: an error raised inside would carry the original one as its context.
            self._wait_or_raise(error, failures)

    def _describe(self, error: NotionError, name: str, failures: int) -> NotionError:
        tried = f"; tried {failures} times" if error.retry and failures > self._settings.retries else ""
        # No server should echo the token. If one does, mask it.
        reason = f"{name}: {error.reason}{tried}".replace(self._token, "***")
        return NotionError(error.kind, reason, retry=error.retry, retry_after_s=error.retry_after_s)

    def _wait_or_raise(self, error: NotionError, failures: int) -> None:
        settings = self._settings
        if not error.retry or failures > settings.retries:
            raise error
        self.retry_count += 1
        self._on_retry(error.reason)
        wait_s = backoff_s(failures, settings.retry_wait_s, settings.retry_wait_max_s)
        if error.kind == "rate_limited" or error.retry_after_s is not None:
            # Every other process with this token would get the same response.
            self._limiter.pause(max(wait_s, error.retry_after_s or 0.0))
        else:
            self._sleep(wait_s)


class _HttpClient(httpx.Client):
    """An HTTP client that limits the time of a whole request, and counts requests and bytes.

    Args:
        timeout_s: For a request as a whole; the read timeout of httpx starts anew with every chunk.
        check: Called with every chunk; may raise to give up.
    """

    request_count = 0
    received_bytes = 0
    server_time: datetime | None = None

    def __init__(self, timeout_s: float, check: Callable[[], None]) -> None:
        super().__init__(verify=_tls_context())
        self._timeout_s = timeout_s
        self._check = check

    def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        """Send a request and read the response within the time limit."""
        self.request_count += 1
        deadline = time.monotonic() + self._timeout_s
        with outgoing_request(request.method, str(request.url)) as outgoing:
            request.headers.update(outgoing.headers)
            response = self._send(request, deadline, **kwargs)
            outgoing.status = response.status_code
        return response

    def _send(self, request: httpx.Request, deadline: float, **kwargs: Any) -> httpx.Response:
        response = super().send(request, **{**kwargs, "stream": True})
        try:
            self._read_date(response.headers.get("date", ""))
            stream = cast("httpx.SyncByteStream", response.stream)
            response.stream = _ObservedStream(stream, lambda chunk: self._on_chunk(request, chunk, deadline))
            response.read()
        except BaseException:
            response.close()
            raise
        return response

    def _on_chunk(self, request: httpx.Request, chunk: bytes, deadline: float) -> None:
        self.received_bytes += len(chunk)
        self._check()
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the response takes too long", request=request)

    def _read_date(self, header: str) -> None:
        with suppress(ValueError, TypeError):
            moment = parsedate_to_datetime(header)
            # A date without an offset cannot be compared.
            self.server_time = moment if moment.tzinfo is not None else self.server_time


class _ObservedStream(httpx.SyncByteStream):
    """A response body that passes every chunk to an observer first."""

    def __init__(self, stream: httpx.SyncByteStream, on_chunk: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._on_chunk = on_chunk

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._on_chunk(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _make_sdk_client(settings: TraceSettings, token: str, http: httpx.Client) -> Client:
    """Return Notion's SDK client. It does not retry: retries have to respect the shared rate limit."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NotionError("refused", "NOTION_TOKEN is not a token: it is empty, or has characters that no token has")
    try:
        return Client(
            client=http,
            auth=token,
            base_url=settings.api_url.rstrip("/"),
            notion_version=settings.api_version,
            timeout_ms=int(settings.timeout_s * 1000),
            retry=False,
            logger=_SDK_LOG,
            log_level=logging.CRITICAL,
        )
    except httpx.InvalidURL:
        raise NotionError("refused", "trace.api_url is not a URL") from None


def _send_once(send: Callable[[], Any], expected: str) -> dict[str, Any]:
    """Return the object that a request returns.

    Errors are raised without a cause: that of httpx or the SDK might hold the token.

    Args:
        send: Sends the request.
        expected: The type of object that it returns: ``page``, ``list``.

    Raises:
        NotionError: The request failed, or did not return such an object.
    """
    try:
        answer = send()
    except RequestTimeoutError:
        raise NotionError("timeout", "no response in time", retry=True) from None
    except HTTPResponseError as ex:
        raise classify_response(ex.status, ex.body, ex.headers.get("retry-after"), datetime.now(UTC)) from None
    except (NotionClientErrorBase, *_NOT_SENT) as ex:
        raise NotionError("refused", f"the request cannot be sent: {type(ex).__name__}") from None
    except httpx.RequestError as ex:
        raise NotionError("transport", f"the connection failed: {type(ex).__name__}: {ex}", retry=True) from None
    except ValueError:
        raise NotionError("transport", "the response is not JSON", retry=True) from None
    if not isinstance(answer, dict) or not _is_complete(answer, expected):
        raise NotionError("transport", f"the response is not a {expected} of Notion's", retry=True)
    return answer


def _is_complete(answer: dict[str, Any], expected: str) -> bool:
    kind = answer.get("object")
    member, type_ = _REQUIRED_MEMBERS.get(kind, ("type", str))
    return kind in (expected, "property_item") and isinstance(answer.get(member), type_)


@cache
def _tls_context() -> ssl.SSLContext:
    # Loading the root certificates takes 20 ms: once per process, not once per export.
    return httpx.create_ssl_context()
