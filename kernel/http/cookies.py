"""Cookies that only this very service can set in a browser, where it is reached with TLS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kernel.http.request import Request

# A browser takes a cookie of such a name only from this very host, over TLS (RFC 6265bis, 4.1.3.2): no neighbour, and
# nobody on the way, can set it.
SECURE_PREFIX = "__Host-"


def read_cookies(request: Request, name: str) -> Sequence[str]:
    """Return the values of a cookie. Several of them mean that another host has set one."""
    # Before cookies are parsed, which takes longer than all that most requests do.
    if name not in request.env.get("HTTP_COOKIE", ""):
        return ()
    return request.get_cookie_values(_full_name(request, name)) or ()


def make_cookie(request: Request, name: str, value: str, max_age_s: int | None = None) -> str:
    """Return the header ``Set-Cookie`` for a cookie.

    ``HttpOnly`` keeps it from scripts, ``SameSite`` from requests of other sites, ``Secure`` from networks without TLS.

    Args:
        request: The request that is answered.
        name: Of the cookie; with TLS it gets a prefix.
        value: Without semicolons and spaces.
        max_age_s: How long the browser keeps it, in seconds; 0 removes it, None keeps it until the browser is closed.
    """
    secure = "; Secure" if _is_secure(request) else ""
    return f"{format_cookie(_full_name(request, name), value, max_age_s)}{secure}"


def format_cookie(
    name: str, value: str, max_age_s: int | None = None, same_site: Literal["Lax", "Strict"] = "Lax"
) -> str:
    """Return the header ``Set-Cookie`` for a cookie that is no secret, and needs no TLS; see ``make_cookie``."""
    age = "" if max_age_s is None else f"; Max-Age={max_age_s}"
    return f"{name}={value}; Path=/; HttpOnly; SameSite={same_site}{age}"


def _is_secure(request: Request) -> bool:
    """Tell whether the client uses TLS: with this service, or with a proxy that it trusts."""
    return bool(request.scheme == "https")


def _full_name(request: Request, name: str) -> str:
    return f"{SECURE_PREFIX}{name}" if _is_secure(request) else name
