"""gunicorn's response, with less work for each header."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.message import TOKEN_RE


@lru_cache(maxsize=256)
def _is_ordinary(name: str) -> bool:
    # The same few names come with every answer.
    return TOKEN_RE.fullmatch(name) is not None and name.lower() != "content-length" and not util.is_hoppish(name)


class ServerResponse(wsgi.Response):
    """Checks a header by its characters first, and leaves to gunicorn what it does not know as ordinary.

    gunicorn runs two regular expressions for each header of each answer, which takes as long as the rest of an answer
    from memory.
    """

    headers: list[tuple[str, str]]

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Take the headers of an answer.

        Raises:
            InvalidResponseHeaderName: One has a name that HTTP does not allow.
            InvalidResponseHeader: One has such a value.
        """
        for header in headers:
            name, value = header
            if _is_ordinary(name) and value.isprintable() and value.isascii():
                self.headers.append(header)
            else:
                super().process_headers([header])
