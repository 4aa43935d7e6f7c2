"""Which URLs may be requested: those of the configuration, and what they lead to on the same host."""

from __future__ import annotations

import httpx

from plugins.club.fetch.results import FetchError

_DEFAULT_PORTS = {"http": 80, "https": 443}


def display_url(url: httpx.URL) -> str:
    """Return a URL for messages: without credentials and without the query, which may contain a key."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def ensure_same_host(current: httpx.URL, target: httpx.URL, what: str) -> None:
    """Refuse a URL from a response unless it has the host and port of the URL that was requested.

    The one exception is the upgrade from http to https between their default ports.

    Args:
        current: The URL that was requested.
        target: A redirect or the next page.
        what: Names the target in the message, such as ``a redirect to``.

    Raises:
        FetchError: The target must not be requested.
    """
    if problem := _find_problem(current, target):
        raise FetchError("redirect", f"{what} {display_url(target)} is refused: it {problem}")


def _find_problem(current: httpx.URL, target: httpx.URL) -> str | None:
    try:
        host = target.host
    except UnicodeError:  # not a valid IDNA name
        return "is not a valid URL"
    if target.scheme not in _DEFAULT_PORTS:
        return "is neither http nor https"
    if target.userinfo:
        return "contains a user or password"
    if host != current.host:
        return f"is on another host than {current.host}"
    if current.scheme == "https" and target.scheme == "http":
        return "downgrades from https to http"
    if _port(target) == _port(current) and target.scheme == current.scheme:
        return None
    is_upgrade = (current.scheme, _port(current), target.scheme, _port(target)) == ("http", 80, "https", 443)
    return None if is_upgrade else f"is on another port than {_port(current)}"


def _port(url: httpx.URL) -> int:
    return url.port or _DEFAULT_PORTS[url.scheme]
