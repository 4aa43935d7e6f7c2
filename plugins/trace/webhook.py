"""``POST /trace/webhooks/notion/``: verify the events that Notion sends, and bring the next refresh forward.

Anybody may send a request; without a valid signature it changes nothing. While no verification token is configured, the
one that Notion sends for a new subscription is stored, and shown by ``tiercel trace webhook`` alone.

Sources: https://developers.notion.com/reference/webhooks and
https://developers.notion.com/reference/webhooks-events-delivery
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from kernel import (
    ConflictError,
    MalformedError,
    NotFoundError,
    Request,
    Secret,
    Services,
    StreamBody,
    UnauthorizedError,
    route,
)
from kernel.http import Envelope, envelope
from plugins.trace.jobs import REFRESH
from plugins.trace.settings import TraceSettings
from plugins.trace.store import save_moved_page, save_verification_token

PATH = "/trace/webhooks/notion/"
SIGNATURE_HEADER = "X-Notion-Signature"
# An event names what changed, but does not hold its new content.
BODY_BYTES_MAX = 64 * 1024
# Everything msgspec raises for a text that it cannot read to its end.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_VERIFICATION_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")
_PAGE_EVENTS = ("created", "content_updated", "properties_updated", "deleted", "undeleted", "moved")
_TABLE_EVENTS = ("created", "content_updated", "schema_updated", "deleted", "undeleted", "moved")
_PAGE_MOVED = "page.moved"
_EVENT_TYPES = frozenset(
    {
        *(f"page.{each}" for each in _PAGE_EVENTS),
        *(f"{table}.{each}" for table in ("data_source", "database") for each in _TABLE_EVENTS),
    }
)
_ID = re.compile(r"[0-9a-fA-F-]{32,36}")


class WebhookOutcome(msgspec.Struct, frozen=True):
    """What was done with a request.

    Args:
        outcome: ``refresh`` scheduled one, ``ignored`` concerns no configured source, ``kept`` stored a verification
            token.
    """

    outcome: Literal["refresh", "ignored", "kept"]


class Webhook:
    """Receives events.

    Args:
        services: Of this plugin.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings(TraceSettings)

    @route(PATH, method="POST", policy="public", errors=(401, 404))
    def receive(self, request: Request, body: StreamBody) -> Envelope[WebhookOutcome]:
        """Receive an event. Notion repeats one that is not answered soon, so the work is left to a job."""
        # Notion does not compress: whatever is to be decompressed lacks its signature.
        content = body.read_sent(BODY_BYTES_MAX)
        token = self._settings.webhook_token
        if token is None:
            outcome = self._store_verification_token(content)
        else:
            verify_signature(content, request.get_header(SIGNATURE_HEADER), token)
            outcome = self._process_event(request, content)
        return envelope(request, outcome)

    def _process_event(self, request: Request, content: bytes) -> WebhookOutcome:
        try:
            event = msgspec.json.decode(content)
        except _DECODE_ERRORS as ex:
            raise MalformedError(detail=str(ex)) from ex
        if not self._settings.is_active or not concerns_sources(event, self._settings):
            return WebhookOutcome("ignored")
        if (page_id := moved_page(event)) is not None:
            save_moved_page(self._services.db, page_id)
        try:
            self._services.jobs.start(REFRESH, request_id=request.request_id, delay_s=self._settings.webhook_wait_s)
        except ConflictError:
            # A full refresh is waiting already.
            self._services.log.debug("refresh_waits_already")
        return WebhookOutcome("refresh")

    def _store_verification_token(self, content: bytes) -> WebhookOutcome:
        """Store the token that Notion sends once, unsigned, for a new subscription."""
        token = _read_verification_token(content) if self._settings.sources else None
        if token is None:
            raise NotFoundError("Webhooks are not set up.", detail="NOTION_WEBHOOK_TOKEN is not set")
        save_verification_token(self._services.db, token)
        self._services.log.info("webhook_token_offered", shown_by="tiercel trace webhook")
        return WebhookOutcome("kept")


def verify_signature(body: bytes, signature: str | None, token: Secret) -> None:
    """Raise unless a body was signed with the verification token; takes the same time either way.

    Args:
        body: As received.
        signature: The header ``X-Notion-Signature``.
        token: The verification token of the subscription.

    Raises:
        UnauthorizedError: The signature is missing or wrong.
    """
    expected = f"sha256={hmac.new(token.reveal().encode(), body, hashlib.sha256).hexdigest()}"
    received = (signature or "").encode("utf-8", "replace")
    if not hmac.compare_digest(received, expected.encode()):
        raise UnauthorizedError("The signature is wrong.", detail=f"expected {SIGNATURE_HEADER}: sha256=...")


def concerns_sources(event: Any, settings: TraceSettings) -> bool:
    """Tell whether an event may concern rows of the configured sources.

    Args:
        event: As received, decoded. Members that are missing or of another type count as unknown.
        settings: Has the sources.
    """
    kind = _get(event, "type")
    # Notion does not say where a page was before it was moved.
    return kind == _PAGE_MOVED or (kind in _EVENT_TYPES and _may_be_in_sources(event, settings))


def moved_page(event: Any) -> str | None:
    """Return the id of the page that an event reports as moved; None for other events."""
    page_id = _get(event, "entity", "id")
    is_moved = _get(event, "type") == _PAGE_MOVED and isinstance(page_id, str) and _ID.fullmatch(page_id)
    return page_id if is_moved else None


def _may_be_in_sources(event: Any, settings: TraceSettings) -> bool:
    sources = settings.sources.values()
    configured = {_without_dashes(each) for source in sources for each in (*source.databases, *source.data_sources)}
    parent = _get(event, "data", "parent")
    if configured.intersection(_event_ids(event)) or not _get(parent, "id"):
        return True
    # Subscriptions with an older API version name only the database of a row, which need not be configured.
    names_database_only = _get(parent, "type") == "database" and _get(parent, "data_source_id") is None
    return names_database_only and any(source.data_sources for source in sources)


def _event_ids(event: Any) -> Iterator[str]:
    parent = _get(event, "data", "parent")
    for value in (_get(event, "entity", "id"), _get(parent, "id"), _get(parent, "data_source_id")):
        if isinstance(value, str):
            yield _without_dashes(value)


def _without_dashes(id_: str) -> str:
    # Notion accepts and sends ids in both forms.
    return id_.replace("-", "").lower()


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _read_verification_token(content: bytes) -> str | None:
    try:
        message: Any = msgspec.json.decode(content)
    except _DECODE_ERRORS:
        return None
    token = message.get("verification_token") if isinstance(message, dict) else None
    return token if isinstance(token, str) and _VERIFICATION_TOKEN.fullmatch(token) else None
