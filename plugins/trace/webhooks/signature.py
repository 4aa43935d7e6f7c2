"""Tell what Notion sent from what somebody else did.

Source: https://developers.notion.com/reference/webhooks
"""

from __future__ import annotations

import hashlib
import hmac

from kernel import Secret

HEADER = "X-Notion-Signature"


def sign(body: bytes, token: str) -> str:
    """Return the signature of a body.

    Args:
        body: As it is sent.
        token: The verification token of the subscription.
    """
    return f"sha256={hmac.new(token.encode(), body, hashlib.sha256).hexdigest()}"


def is_signed(body: bytes, signature: str | None, token: Secret) -> bool:
    """Tell whether a signature is right; takes as long whether it is or not."""
    given = (signature or "").encode("utf-8", "replace")
    return hmac.compare_digest(given, sign(body, token.reveal()).encode())
