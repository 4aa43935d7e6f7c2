"""The headers of a request, secrets among them."""

from __future__ import annotations

from collections.abc import Mapping

from kernel import Secret
from plugins.club.fetching.bodies import ACCEPTED_ENCODING
from plugins.club.fetching.outcome import FetchError, PageValidator
from plugins.club.settings import ENV_PREFIX, is_header_value

Headers = Mapping[str, Secret]


def resolve_headers(configured: Mapping[str, str], environ: Mapping[str, str]) -> Headers:
    """Put in what the environment holds.

    Args:
        configured: Values, or ``env:NAME``.
        environ: Variables.

    Raises:
        FetchError: A variable is missing, or cannot be sent. Its name is told, never its value.
    """
    return {name: Secret(_resolved(text, environ)) for name, text in configured.items()}


def request_headers(headers: Headers, known: PageValidator | None) -> dict[str, str]:
    """Return the headers to send; with what is known of a page, the request is conditional."""
    sent = {"accept": "application/json", "user-agent": "tiercel"}
    sent |= {name.lower(): secret.reveal() for name, secret in headers.items()}
    sent["accept-encoding"] = ACCEPTED_ENCODING
    if known is not None and known.etag:
        sent["if-none-match"] = known.etag
    if known is not None and known.last_modified:
        sent["if-modified-since"] = known.last_modified
    return sent


def _resolved(text: str, environ: Mapping[str, str]) -> str:
    if not text.startswith(ENV_PREFIX):
        return text
    name = text.removeprefix(ENV_PREFIX)
    value = environ.get(name)
    if not value:
        raise FetchError("configuration", f"the environment variable {name} is not set")
    if not is_header_value(value):
        raise FetchError("configuration", f"the environment variable {name} holds characters that no header may")
    return value
