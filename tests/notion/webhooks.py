"""Webhook requests as Notion sends them.

Sources: https://developers.notion.com/reference/webhooks and .../webhooks-events-delivery
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from typing import Any

from kernel.testing import Client, Result

PATH = "/trace/webhooks/notion/"
TOKEN = "secret_of_the_webhook_of_the_tests"


def make_event(
    kind: str, entity_id: str, *, parent: dict[str, Any] | None = None, timestamp: str = "2026-11-21T12:00:00.000Z"
) -> dict[str, Any]:
    """Return an event.

    Args:
        kind: Such as ``page.created``.
        entity_id: Of the page, data source or database.
        parent: Its parent; left out by default.
        timestamp: When it happened.
    """
    return {
        "id": str(uuid.uuid4()),
        "timestamp": timestamp,
        "workspace_id": str(uuid.uuid4()),
        "workspace_name": "Specifications",
        "subscription_id": str(uuid.uuid4()),
        "integration_id": str(uuid.uuid4()),
        "authors": [{"id": str(uuid.uuid4()), "type": "person"}],
        "accessible_by": [],
        "attempt_number": 1,
        "api_version": "2026-03-11",
        "type": kind,
        "entity": {"id": entity_id, "type": kind.partition(".")[0]},
        "data": {} if parent is None else {"parent": parent},
    }


def signature(body: bytes, token: str = TOKEN) -> str:
    """Return the value of the header ``X-Notion-Signature``."""
    return "sha256=" + hmac.new(token.encode(), body, hashlib.sha256).hexdigest()


def send(client: Client, event: dict[str, Any], *, token: str = TOKEN) -> Result:
    """Send a signed event."""
    body = json.dumps(event, separators=(",", ":")).encode()
    return client.post(PATH, content=body, headers={"X-Notion-Signature": signature(body, token)})
