"""gunicorn's response class, with faster validation of headers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.message import TOKEN_RE


@lru_cache(maxsize=256)
def _is_ordinary(name: str) -> bool:
    # Every response has the same few names.
    return TOKEN_RE.fullmatch(name) is not None and name.lower() != "content-length" and not util.is_hoppish(name)


class ServerResponse(wsgi.Response):
    """Validates ordinary headers by their characters, and leaves all others to gunicorn.

    gunicorn matches two regular expressions for each header of each response, which takes as long as the rest of a
    response from a cache.
    """

    headers: list[tuple[str, str]]

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Add the headers of a response.

        Raises:
            InvalidResponseHeaderName: HTTP does not allow the name of a header.
            InvalidResponseHeader: HTTP does not allow the value of a header.
        """
        for header in headers:
            name, value = header
            if _is_ordinary(name) and value.isprintable() and value.isascii():
                self.headers.append(header)
            else:
                super().process_headers([header])
