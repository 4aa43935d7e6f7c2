"""One GET: redirects followed on its own host, everything that can go wrong named."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from http import HTTPStatus

import httpx
import msgspec

from kernel import retry_after_s
from plugins.club.fetching.bodies import read_body
from plugins.club.fetching.budget import Budget
from plugins.club.fetching.headers import Headers, request_headers
from plugins.club.fetching.hosts import HostLimits, refusal, shown
from plugins.club.fetching.outcome import FetchError, PageValidator
from plugins.club.settings import ClubSettings, is_header_value

REDIRECTS_MAX = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORTH_A_RETRY = frozenset({408, 425, 429})
_NOT_WORTH_A_RETRY = frozenset({501, 505})


class Answer(msgspec.Struct, frozen=True):
    """What a server said.

    Args:
        url: Where it was found in the end.
        body: Decompressed; None if nothing has changed.
        validator: For the next time, under the URL that was asked for; None if the server gives none.
    """

    url: httpx.URL
    body: bytes | None
    validator: PageValidator | None


def make_transport() -> httpx.AsyncHTTPTransport:
    """Make what sends requests: one each, where it is told.

    A transport and no client: a client keeps cookies, looks into every redirect, and logs URLs with their queries.
    """
    # HostLimits bounds connections.
    return httpx.AsyncHTTPTransport(verify=_tls(), trust_env=False, limits=httpx.Limits(max_connections=None))


@cache
def _tls() -> ssl.SSLContext:
    # Reading all certificates takes longer than most requests.
    return httpx.create_ssl_context(trust_env=False)


class Requests:
    """Sends the requests of one source.

    Args:
        transport: See ``make_transport``.
        settings: Limits.
        hosts: Shared by all sources.
        budget: The source's time.
        headers: The source's headers.
        now: UTC; for dates in ``Retry-After``.
    """

    def __init__(
        self,
        transport: httpx.AsyncHTTPTransport,
        settings: ClubSettings,
        hosts: HostLimits,
        budget: Budget,
        headers: Headers,
        now: Callable[[], datetime],
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._hosts = hosts
        self._budget = budget
        self._headers = headers
        self._now = now

    async def get(self, url: httpx.URL, known: PageValidator | None = None) -> Answer:
        """Ask once.

        Args:
            url: Of a page.
            known: What is known of it; makes the request conditional.

        Raises:
            FetchError: There is no answer, or none that can be used.
        """
        limit_s = self._settings.timeout_s
        async with self._hosts.slot(url, self._budget):
            try:
                async with asyncio.timeout(limit_s):
                    return await self._follow(url, known)
            except TimeoutError as ex:
                raise FetchError("timeout", f"no complete answer within {limit_s:g} s", retry=True) from ex
            except httpx.ConnectTimeout as ex:
                reason = f"no connection within {self._settings.connect_timeout_s:g} s"
                raise FetchError("timeout", reason, retry=True) from ex
            except httpx.ConnectError as ex:
                raise FetchError("unreachable", f"cannot connect to {url.host}: {ex}", retry=True) from ex
            except (httpx.NetworkError, httpx.RemoteProtocolError) as ex:
                raise FetchError("cut", f"the connection broke: {ex}", retry=True) from ex

    async def _follow(self, url: httpx.URL, known: PageValidator | None) -> Answer:
        current = url
        for _ in range(REDIRECTS_MAX + 1):
            async with self._sent(current, known) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._answer(response, url, conditional=known is not None)
                current = _redirected(current, response)
        raise FetchError("redirect", f"more than {REDIRECTS_MAX} redirects")

    @asynccontextmanager
    async def _sent(self, url: httpx.URL, known: PageValidator | None) -> AsyncIterator[httpx.Response]:
        # get() limits the whole.
        timeout = httpx.Timeout(None, connect=self._settings.connect_timeout_s)
        request = httpx.Request(
            "GET", url, headers=request_headers(self._headers, known), extensions={"timeout": timeout.as_dict()}
        )
        response = await self._transport.handle_async_request(request)
        response.request = request
        try:
            yield response
        finally:
            await response.aclose()

    async def _answer(self, response: httpx.Response, asked: httpx.URL, *, conditional: bool) -> Answer:
        status = response.status_code
        if status == HTTPStatus.NOT_MODIFIED and conditional:
            return Answer(response.url, None, None)
        if status != HTTPStatus.OK:
            raise self._refused(response)
        body = await read_body(response, self._settings.max_bytes)
        etag, last_modified = _validator(response, "etag"), _validator(response, "last-modified")
        if etag is None and last_modified is None:
            return Answer(response.url, body, None)
        return Answer(response.url, body, PageValidator(url=str(asked), etag=etag, last_modified=last_modified))

    def _refused(self, response: httpx.Response) -> FetchError:
        status = response.status_code
        retry = status in _WORTH_A_RETRY or (
            status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NOT_WORTH_A_RETRY
        )
        wait_s = retry_after_s(response.headers.get("retry-after"), self._now())
        reason = f"{shown(response.url)} answered {status} {response.reason_phrase}".strip()
        return FetchError("status", reason, retry=retry, retry_after_s=wait_s)


def _validator(response: httpx.Response, header: str) -> str | None:
    """Return a header that will be sent back; one that cannot be is as good as none."""
    value = response.headers.get(header)
    return value if value and is_header_value(value) else None


def _redirected(current: httpx.URL, response: httpx.Response) -> httpx.URL:
    try:
        target = current.join(response.headers["location"])
    except (KeyError, httpx.InvalidURL) as ex:
        raise FetchError("redirect", f"{shown(current)} redirects to no address") from ex
    if reason := refusal(current, target):
        raise FetchError("redirect", f"a redirect to {shown(target)} is refused: it {reason}")
    return target
