"""The HTTP client of a source: headers and secrets, conditional requests, redirects, retries, and named failures."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from http import HTTPStatus

import httpx
import msgspec

from kernel import Secret, backoff_s, retry_after_s
from kernel.http import outgoing_request
from plugins.club.fetch.allowed_hosts import display_url, ensure_same_host
from plugins.club.fetch.limits import ACCEPT_ENCODING, HostLimits, TimeBudget, read_body
from plugins.club.fetch.results import FetchError, PageValidator
from plugins.club.settings import ENV_PREFIX, ClubSettings, is_header_value

REDIRECTS_MAX = 5
# Upper bound of the delay before a retry, also of what ``Retry-After`` asks for.
RETRY_WAIT_MAX_S = 60.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED_CLIENT_ERRORS = frozenset({408, 425, 429})
_FINAL_SERVER_ERRORS = frozenset({501, 505})

Headers = Mapping[str, Secret]


class FetchContext(msgspec.Struct, frozen=True):
    """What all sources of a refresh share.

    Args:
        transport: Sends requests; see ``make_transport``.
        hosts: Limits the requests to each host.
        environ: Environment variables, from which headers take their secrets.
        now: Returns the current time, UTC.
    """

    transport: httpx.AsyncHTTPTransport
    hosts: HostLimits
    environ: Mapping[str, str]
    now: Callable[[], datetime]


class PageResponse(msgspec.Struct, frozen=True):
    """The response to the request for a page.

    Args:
        url: The URL after redirects.
        body: The decompressed body; None for a 304.
        validator: For the next conditional request, under the URL that was requested; None if the server sent none.
    """

    url: httpx.URL
    body: bytes | None
    validator: PageValidator | None


def make_transport() -> httpx.AsyncHTTPTransport:
    """Make the transport that sends single requests, without proxies.

    Not a client of httpx: that keeps cookies, reads the bodies of redirects, and logs URLs with their queries.
    """
    # HostLimits limits connections.
    return httpx.AsyncHTTPTransport(verify=_tls_context(), trust_env=False, limits=httpx.Limits(max_connections=None))


@cache
def _tls_context() -> ssl.SSLContext:
    # Cached, because loading all certificates takes longer than most requests.
    return httpx.create_ssl_context(trust_env=False)


class SourceClient:
    """Sends the requests of one source.

    Args:
        context: Shared with all sources.
        settings: Timeouts, sizes and retries.
        headers: As configured for the source; may name environment variables.
        budget: The remaining time of the source. No retry waits longer.
        on_retry: Called with the reason before each retry.

    Raises:
        FetchError: An environment variable of a header is missing or invalid.
    """

    def __init__(
        self,
        context: FetchContext,
        settings: ClubSettings,
        headers: Mapping[str, str],
        budget: TimeBudget,
        on_retry: Callable[[str], None],
    ) -> None:
        self._context = context
        self._settings = settings
        self._headers = _resolve_headers(headers, context.environ)
        self._budget = budget
        self._on_retry = on_retry

    async def get(self, url: httpx.URL, known: PageValidator | None = None) -> PageResponse:
        """Request a page; retry what may succeed the next time.

        Args:
            url: URL of the page.
            known: Validator of the page; makes the request conditional.

        Raises:
            FetchError: The last attempt failed.
        """
        retries = self._settings.retries
        failures = 0
        while True:
            try:
                return await self._get_once(url, known)
            except FetchError as ex:
                failures += 1
                if not ex.retry or retries == 0:
                    raise
                if failures > retries:
                    raise FetchError(ex.kind, f"{ex.reason}; tried {failures} times") from ex
                wait_s = self._retry_wait_s(failures, ex.retry_after_s)
                if wait_s >= self._budget.remaining_s:
                    raise FetchError(ex.kind, f"{ex.reason}; no time left to retry in {wait_s:.0f} s") from ex
                self._on_retry(ex.reason)
            await asyncio.sleep(wait_s)

    async def _get_once(self, url: httpx.URL, known: PageValidator | None) -> PageResponse:
        timeout_s = self._settings.timeout_s
        async with self._context.hosts.slot(url, self._budget):
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._follow_redirects(url, known)
            except TimeoutError as ex:
                raise FetchError("timeout", f"no complete response within {timeout_s:g} s", retry=True) from ex
            except httpx.ConnectTimeout as ex:
                reason = f"no connection within {self._settings.connect_timeout_s:g} s"
                raise FetchError("timeout", reason, retry=True) from ex
            except httpx.ConnectError as ex:
                raise FetchError("unreachable", f"cannot connect to {url.host}: {ex}", retry=True) from ex
            except (httpx.NetworkError, httpx.RemoteProtocolError) as ex:
                raise FetchError("cut", f"the connection was lost: {ex}", retry=True) from ex

    async def _follow_redirects(self, url: httpx.URL, known: PageValidator | None) -> PageResponse:
        current = url
        for _ in range(REDIRECTS_MAX + 1):
            async with self._send(current, known) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._read(response, url, conditional=known is not None)
                current = _redirect_target(current, response)
        raise FetchError("redirect", f"more than {REDIRECTS_MAX} redirects")

    @asynccontextmanager
    async def _send(self, url: httpx.URL, known: PageValidator | None) -> AsyncIterator[httpx.Response]:
        # _get_once limits the whole request.
        timeout = httpx.Timeout(None, connect=self._settings.connect_timeout_s)
        request = httpx.Request(
            "GET", url, headers=_request_headers(self._headers, known), extensions={"timeout": timeout.as_dict()}
        )
        with outgoing_request("GET", str(url)) as outgoing:
            request.headers.update(outgoing.headers)
            response = await self._context.transport.handle_async_request(request)
            outgoing.status = response.status_code
            response.request = request
            try:
                yield response
            finally:
                await response.aclose()

    async def _read(self, response: httpx.Response, requested: httpx.URL, *, conditional: bool) -> PageResponse:
        if response.status_code == HTTPStatus.NOT_MODIFIED and conditional:
            return PageResponse(response.url, None, None)
        if response.status_code != HTTPStatus.OK:
            raise self._status_error(response)
        body = await read_body(response, self._settings.max_bytes)
        etag, last_modified = _validator_header(response, "etag"), _validator_header(response, "last-modified")
        if etag is None and last_modified is None:
            return PageResponse(response.url, body, None)
        validator = PageValidator(url=str(requested), etag=etag, last_modified=last_modified)
        return PageResponse(response.url, body, validator)

    def _status_error(self, response: httpx.Response) -> FetchError:
        status = response.status_code
        retry = status in _RETRIED_CLIENT_ERRORS or (
            status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _FINAL_SERVER_ERRORS
        )
        wait_s = retry_after_s(response.headers.get("retry-after"), self._context.now())
        reason = f"{display_url(response.url)} answered {status} {response.reason_phrase}".strip()
        return FetchError("status", reason, retry=retry, retry_after_s=wait_s)

    def _retry_wait_s(self, failures: int, requested_s: float | None) -> float:
        own_s = backoff_s(failures, self._settings.retry_wait_s, RETRY_WAIT_MAX_S)
        return own_s if requested_s is None else min(RETRY_WAIT_MAX_S, max(own_s, requested_s))


def _resolve_headers(configured: Mapping[str, str], environ: Mapping[str, str]) -> Headers:
    """Replace ``env:NAME`` by the value of the environment variable."""
    return {name: Secret(_resolve(text, environ)) for name, text in configured.items()}


def _resolve(text: str, environ: Mapping[str, str]) -> str:
    if not text.startswith(ENV_PREFIX):
        return text
    name = text.removeprefix(ENV_PREFIX)
    value = environ.get(name)
    # The messages contain the name of the variable, never its value.
    if not value:
        raise FetchError("configuration", f"the environment variable {name} is not set")
    if not is_header_value(value):
        reason = f"the environment variable {name} contains characters that are not allowed in a header"
        raise FetchError("configuration", reason)
    return value


def _request_headers(headers: Headers, known: PageValidator | None) -> dict[str, str]:
    """Return the headers to send; with a validator, the request is conditional."""
    sent = {"accept": "application/json", "user-agent": "tiercel"}
    sent |= {name.lower(): secret.reveal() for name, secret in headers.items()}
    sent["accept-encoding"] = ACCEPT_ENCODING
    if known is not None and known.etag:
        sent["if-none-match"] = known.etag
    if known is not None and known.last_modified:
        sent["if-modified-since"] = known.last_modified
    return sent


def _validator_header(response: httpx.Response, name: str) -> str | None:
    """Return a validator unless it is missing or cannot be sent back."""
    value = response.headers.get(name)
    return value if value and is_header_value(value) else None


def _redirect_target(current: httpx.URL, response: httpx.Response) -> httpx.URL:
    try:
        target = current.join(response.headers["location"])
    except (KeyError, httpx.InvalidURL) as ex:
        raise FetchError("redirect", f"{display_url(current)} redirects without a valid location") from ex
    ensure_same_host(current, target, "a redirect to")
    return target
