"""``POST /trace/webhooks/notion/``: open to everybody; what is not signed by Notion changes nothing."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from kernel import (
    ConflictError,
    Envelope,
    MalformedError,
    NotFoundError,
    Request,
    Route,
    Secret,
    Services,
    StreamBody,
    TooLargeError,
    UnauthorizedError,
    envelope,
)
from plugins.trace.export.refresh import REFRESH
from plugins.trace.settings import TraceSettings
from plugins.trace.store import save_moved
from plugins.trace.webhooks.events import is_of_interest, moved_page
from plugins.trace.webhooks.offers import save_offer
from plugins.trace.webhooks.signature import HEADER, is_signed

PATH = "/trace/webhooks/notion/"
# An event names what changed, and not what it is now.
BODY_BYTES_MAX = 64 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")


class Taken(msgspec.Struct, frozen=True):
    """What became of an event.

    Args:
        outcome: ``refresh`` brings one forward, ``ignored`` concerns nothing of ours, ``kept`` is a token that
            ``tiercel trace webhook`` shows.
    """

    outcome: Literal["refresh", "ignored", "kept"]


class Webhook:
    """Takes events.

    Args:
        services: Settings, jobs, database.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)

    def route(self) -> Route:
        """Return the route."""
        return Route(method="POST", path=PATH, handler=self.take, policy="public")

    def take(self, request: Request, body: StreamBody) -> Envelope[Taken]:
        """Take an event. Notion sends it again unless it is answered soon; so all work is left to a job."""
        content = _read(body)
        token = self._settings.webhook_token
        taken = self._offer(content) if token is None else self._event(request, content, token)
        return envelope(request, taken)

    def _event(self, request: Request, content: bytes, token: Secret) -> Taken:
        if not is_signed(content, request.get_header(HEADER), token):
            raise UnauthorizedError("The signature is wrong.", detail=f"expected {HEADER}: sha256=...")
        try:
            event = msgspec.json.decode(content)
        except msgspec.DecodeError as ex:
            raise MalformedError(detail=str(ex)) from ex
        if not self._settings.is_active or not is_of_interest(event, self._settings):
            return Taken("ignored")
        if (page_id := moved_page(event)) is not None:
            save_moved(self._services.db, page_id)
        try:
            self._services.jobs.start(REFRESH, request_id=request.request_id, delay_s=self._settings.webhook_wait_s)
        except ConflictError:
            # One waits already, to read everything.
            self._services.log.debug("refresh_waits_already")
        return Taken("refresh")

    def _offer(self, content: bytes) -> Taken:
        """Keep the token that Notion sends for a new subscription, once, unsigned."""
        token = _offered(content) if self._settings.sources else None
        if token is None:
            raise NotFoundError("Webhooks are not set up.", detail="NOTION_WEBHOOK_TOKEN is not set")
        save_offer(self._services.db, token)
        self._services.log.info("webhook_token_offered", shown_by="tiercel trace webhook")
        return Taken("kept")


def _read(body: StreamBody) -> bytes:
    content = bytearray()
    for chunk in body.chunks():
        content += chunk
        if len(content) > BODY_BYTES_MAX:
            raise TooLargeError(detail=f"an event has at most {BODY_BYTES_MAX} bytes")
    return bytes(content)


def _offered(content: bytes) -> str | None:
    try:
        given: Any = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return None
    token = given.get("verification_token") if isinstance(given, dict) else None
    return token if isinstance(token, str) and _TOKEN.fullmatch(token) else None
