"""Deliver batches over HTTP, one attempt at a time, and read what the service says of each.

What can be tried again is told apart from what cannot. A batch that is refused as a whole (400, 413, 422) is halved
until the items that cause it are alone: these are dropped, with the reason counted, and the others are stored.
"""

from __future__ import annotations

import gzip
import json
import re
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from tiercel_client.settings import Settings

_PATH = "/api/requests/ingest/"
_USER_AGENT = "tiercel-client/0.1.0"
_ANSWER_MAX_BYTES = 1024 * 1024
_GZIP_MIN_BYTES = 1024
# More gain little for the time they take.
_GZIP_LEVEL = 3
_REFUSED = frozenset({400, 413, 422})
# Besides 5xx. What is left of 3xx and 4xx is about settings or permissions, which repeating does not change.
_TRANSIENT = frozenset({408, 409, 425, 429})
# Requests that are spent on one batch to find the items that it is refused for.
_SPLIT_REQUESTS_MAX = 64
_RETRY_AFTER_MAX_S = 24 * 3600.0
_REASONS_MAX = 50
_REASON_MAX = 200
_OTHER = "other"
_CODE = re.compile(r"[a-z_]{1,40}")


class DeliveryError(Exception):
    """A batch is not settled, and stays where it is.

    Args:
        reason: Why.
        retry_after_s: When the service asks to be tried again; None if it does not say.
        is_halt: Whether somebody has to change something first.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None, *, is_halt: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.is_halt = is_halt


@dataclass
class Tally:
    """What became of the events of a batch; the counts add up to it.

    Args:
        stored: New ones.
        duplicate: Stored before.
        rejected: Refused by the service one by one, by reason.
        dropped: Refused with their requests, by reason.
    """

    stored: int = 0
    duplicate: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def add_bounded(counts: Counter[str], reason: str, number: int) -> None:
    """Count a reason, as one of a limited number of them."""
    if number:
        reason = reason[:_REASON_MAX]
        counts[reason if reason in counts or len(counts) < _REASONS_MAX else _OTHER] += number


class Destination:
    """The service, on one connection that is kept open. One thread at a time uses it.

    Args:
        settings: Where it is, and the key.
    """

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.url)
        self.origin = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/") + _PATH
        self._timeout_s = settings.timeout_s
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", "User-Agent": _USER_AGENT}
        if settings.key:
            self._headers["Authorization"] = f"Api-Key {settings.key}"
        if settings.site:
            self._headers["X-Site"] = settings.site
        self._connection: HTTPConnection | None = None

    def send(self, key: str, lines: Sequence[bytes]) -> Tally:
        """Send a batch.

        Args:
            key: ``Idempotency-Key``; the same for the same batch.
            lines: Events as JSON.

        Raises:
            DeliveryError: The batch is not settled; send all of it again, under the same key.
        """
        tally = Tally()
        self._send_part(key, lines, tally, [_SPLIT_REQUESTS_MAX])
        return tally

    def _send_part(self, key: str, lines: Sequence[bytes], tally: Tally, requests_left: list[int]) -> None:
        requests_left[0] -= 1
        status, headers, content = self._post(key, b"[" + b",".join(lines) + b"]")
        if 200 <= status < 300:
            _count(content, len(lines), tally)
        elif status not in _REFUSED:
            is_transient = status >= 500 or status in _TRANSIENT
            retry_after_s = _parse_retry_after(headers.get("Retry-After"))
            raise DeliveryError(_reason(status, content), retry_after_s, is_halt=not is_transient)
        elif len(lines) == 1 or requests_left[0] < 2:
            add_bounded(tally.dropped, _reason(status, content), len(lines))
        else:
            middle = len(lines) // 2
            self._send_part(f"{key}.0", lines[:middle], tally, requests_left)
            self._send_part(f"{key}.1", lines[middle:], tally, requests_left)

    def _post(self, key: str, body: bytes) -> tuple[int, Any, bytes]:
        headers = {**self._headers, "Idempotency-Key": key}
        if len(body) >= _GZIP_MIN_BYTES:
            # Without a time: the same batch is the same bytes.
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
        is_reused = self._connection is not None
        try:
            try:
                return self._request(body, headers)
            except (ConnectionError, HTTPException):
                # An open connection that nobody used for a while may have been closed at the other end.
                if not is_reused:
                    raise
                return self._request(body, headers)
        except (OSError, HTTPException, ValueError) as ex:
            raise DeliveryError(f"{type(ex).__name__}: {ex}"[:_REASON_MAX]) from ex

    def _request(self, body: bytes, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        try:
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            content = answer.read(_ANSWER_MAX_BYTES)
        except BaseException:
            self.close()
            raise
        if answer.will_close or not answer.isclosed():
            self.close()
        return answer.status, answer.headers, content

    def _connect(self) -> HTTPConnection:
        if self._tls is not None:
            return HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        return HTTPConnection(self._host, self._port, timeout=self._timeout_s)

    def close(self) -> None:
        """Close the connection; the next batch opens one. After a fork this leaves the parent's as it is."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                connection.close()


def _count(content: bytes, sent: int, tally: Tally) -> None:
    """Add the answer to a batch.

    Raises:
        DeliveryError: It is not one of this service.
    """
    try:
        answer = json.loads(content)
        stored, duplicate, rejected = answer["inserted"], answer["duplicates"], answer["rejected"]
        errors = answer["errors"]
        is_complete = stored + duplicate + rejected == sent
        reasons = [_rejection(error) for error in errors]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as ex:
        raise DeliveryError("the answer is not one of Tiercel: check the URL", is_halt=True) from ex
    if not is_complete:
        raise DeliveryError("the answer counts other events than were sent", is_halt=True)
    tally.stored += stored
    tally.duplicate += duplicate
    for reason in reasons[:rejected]:
        add_bounded(tally.rejected, reason, 1)
    # The service lists a limited number of errors.
    add_bounded(tally.rejected, _OTHER, rejected - len(reasons[:rejected]))


def _rejection(error: Any) -> str:
    field_name, messages = next(iter(error["errors"].items()))
    return f"{field_name}: {messages[0]}"


def _reason(status: int, content: bytes) -> str:
    """Return status and code of an error. What else an answer says may be of any length, and about anything."""
    code: object = None
    with suppress(AttributeError, RecursionError, ValueError):
        code = json.loads(content).get("code")
    return f"{status} {code}" if isinstance(code, str) and _CODE.fullmatch(code) else str(status)


def _parse_retry_after(header: str | None) -> float | None:
    """Return the seconds of a header ``Retry-After`` (RFC 9110, section 10.2.3), a number or a date."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    seconds = (at - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0.0), _RETRY_AFTER_MAX_S)
