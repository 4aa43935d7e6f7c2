"""Notion's client, counted: one attempt a call, every failure named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx
from notion_client import Client
from notion_client.errors import HTTPResponseError, NotionClientErrorBase, RequestTimeoutError

from kernel import retry_after_s
from plugins.trace.notion.errors import Kind, NotionError
from plugins.trace.settings import TraceSettings

# It has no constant for it: https://developers.notion.com/reference/request-limits
_OVERLOADED = 529
_LIMITED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, _OVERLOADED})
_WORTH_A_RETRY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT})
# Speaks of requests and of their failures to nobody: we do.
_LOG = logging.getLogger("plugins.trace.notion.sdk")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class CountingClient(httpx.Client):
    """An HTTP client that knows how much came."""

    requests = 0
    received_bytes = 0
    date: datetime | None = None

    def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        """Send a request and count it, whatever becomes of it."""
        self.requests += 1
        response = super().send(request, **kwargs)
        self.received_bytes += response.num_bytes_downloaded
        with suppress(ValueError, TypeError):
            self.date = parsedate_to_datetime(response.headers["date"]) if "date" in response.headers else self.date
        return response


def make_client(settings: TraceSettings, http: httpx.Client) -> Client:
    """Make a client of Notion that tries once: what is tried again, and when, is decided with everybody's budget.

    Args:
        settings: Address, version and token.
        http: What sends.
    """
    return Client(
        client=http,
        auth=None if settings.token is None else settings.token.reveal(),
        base_url=settings.api_url.rstrip("/"),
        notion_version=settings.api_version,
        timeout_ms=int(settings.timeout_s * 1000),
        retry=False,
        logger=_LOG,
        log_level=logging.CRITICAL,
    )


def attempt(call: Callable[[], Any]) -> dict[str, Any]:
    """Return the object that a call answers.

    Raises:
        NotionError: There is none, or none that can be used.
    """
    try:
        answer = call()
    except RequestTimeoutError as ex:
        raise NotionError("timeout", "no answer in time", retry=True) from ex
    except HTTPResponseError as ex:
        raise _refused(ex) from ex
    except NotionClientErrorBase as ex:
        raise NotionError("refused", f"the request cannot be sent: {ex}") from ex
    except httpx.TransportError as ex:
        raise NotionError("cut", f"the connection failed: {type(ex).__name__}: {ex}", retry=True) from ex
    except ValueError as ex:
        raise NotionError("cut", f"an answer is no JSON: {ex}", retry=True) from ex
    if not isinstance(answer, dict):
        raise NotionError("cut", "an answer is no object", retry=True)
    return answer


def _refused(error: HTTPResponseError) -> NotionError:
    status = error.status
    wait_s = retry_after_s(error.headers.get("retry-after"), datetime.now(UTC))
    kind: Kind = "refused"
    if status in _LIMITED:
        kind = "limited"
    elif status == HTTPStatus.NOT_FOUND:
        kind = "missing"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = "unavailable"
    retry = kind in {"limited", "unavailable"} or status in _WORTH_A_RETRY
    return NotionError(kind, f"answered {status}: {error}", retry=retry, retry_after_s=wait_s)
