"""Notices: what a page says once, after a form was sent and the browser was redirected to it.

The cookie that carries one has a number that stands for a text of this program, and no text of its own: whoever can set
cookies cannot make a page say what he likes. What must not be lost, or seen by others, such as a new secret, belongs
into the response to the form itself.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kernel.http.cookies import format_cookie
from kernel.http.request import Request

if TYPE_CHECKING:
    from kernel.http.response import FalconResponse

_COOKIE = "tiercel_notice"
# The browser follows a redirect at once.
_MAX_AGE_S = 60
_texts: dict[str, str] = {}


class Notice:
    """A text that pages may show once: ``CREATED = Notice("Key created.")``, made where the plugin is loaded.

    Args:
        text: For people. The same for everybody: it names no row.
    """

    def __init__(self, text: str) -> None:
        # The same in every process of the same version.
        self._code = hashlib.sha256(text.encode()).hexdigest()[:16]
        _texts[self._code] = text

    @property
    def cookie(self) -> str:
        """The header ``Set-Cookie`` that takes it along to the next page."""
        return format_cookie(_COOKIE, self._code, _MAX_AGE_S, "Strict")


def take_notice(request: Request, response: FalconResponse) -> str | None:
    """Return what a page says once, and make the browser forget it; None if there is nothing."""
    if _COOKIE not in request.env.get("HTTP_COOKIE", ""):
        return None
    found = request.get_cookie_values(_COOKIE)
    if not found:
        return None
    response.append_header("Set-Cookie", format_cookie(_COOKIE, "", 0, "Strict"))
    return _texts.get(found[0])
