"""Bodies are read to their end, and not beyond the limit."""

from __future__ import annotations

import io
from typing import Any

import falcon.testing
import pytest

from kernel.errors import MalformedError, TooLargeError
from kernel.http.bodies import BodyLimits, read_body
from kernel.http.request import Request

LIMIT_BYTES = 10
LIMITS = BodyLimits(LIMIT_BYTES, LIMIT_BYTES)


class Stream(io.BytesIO):
    """Counts what is read from it."""

    taken_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.taken_bytes += len(content)
        return content


def make_request(content: bytes, **variables: Any) -> tuple[Request, Stream]:
    """Make a request whose body comes from a stream."""
    stream = Stream(content)
    environ = falcon.testing.create_environ(method="POST")
    return Request({**environ, "wsgi.input": stream, **variables}), stream


@pytest.mark.parametrize("variables", [{"CONTENT_LENGTH": "3"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_a_body_is_read_to_its_end(variables: dict[str, str]) -> None:
    request, _ = make_request(b"abc", **variables)

    assert read_body(request, LIMITS) == b"abc"


def test_a_request_without_a_body_has_an_empty_one() -> None:
    request, stream = make_request(b"of the next request")

    assert (read_body(request, LIMITS), stream.taken_bytes) == (b"", 0)


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    request, stream = make_request(b"x" * 100, CONTENT_LENGTH="100")

    with pytest.raises(TooLargeError):
        read_body(request, LIMITS)
    assert stream.taken_bytes == 0


def test_a_body_without_a_length_is_read_up_to_the_limit() -> None:
    request, stream = make_request(b"x" * 100, HTTP_TRANSFER_ENCODING="Chunked")

    with pytest.raises(TooLargeError):
        read_body(request, LIMITS)
    assert stream.taken_bytes == LIMIT_BYTES + 1


def test_a_body_that_ends_early_is_malformed() -> None:
    request, _ = make_request(b"abc", CONTENT_LENGTH="5")

    with pytest.raises(MalformedError, match=r"^The body ended early\.$"):
        read_body(request, LIMITS)
