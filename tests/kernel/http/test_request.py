"""Identifiers of requests: request ids, W3C Trace Context; and bodies, read to their end and within limits."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import falcon.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import MalformedError, TooLargeError, UnavailableError
from kernel.http.request import (
    CONTEXT_KEY,
    BodyBudget,
    BodyLimits,
    Request,
    decode_path_parameter,
    make_context,
    read_body,
)
from kernel.testing import Client

Mount = Callable[..., Client]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")

MALFORMED = [
    "",
    f"00-{TRACE_ID}-{SPAN_ID}",
    f"00-{TRACE_ID}-{SPAN_ID}-1",
    f"00-{TRACE_ID}-{SPAN_ID}-01-more",
    f"00-{TRACE_ID}-{SPAN_ID}-01.",
    f"00-{TRACE_ID}-{SPAN_ID}-01-",
    f"00-{TRACE_ID}-{SPAN_ID}-0x",
    f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
    f"00-{'0' * 32}-{SPAN_ID}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID[1:]}-{SPAN_ID}-01",
    f"ff-{TRACE_ID}-{SPAN_ID}-01",
    f"0-{TRACE_ID}-{SPAN_ID}-01",
    f"cc-{TRACE_ID}-{SPAN_ID}-01.more",
    f"00-{TRACE_ID}-{SPAN_ID}-01,00-{TRACE_ID}-{SPAN_ID}-01",
    f" 00-{TRACE_ID}-{SPAN_ID}-01",
]


@pytest.mark.parametrize(
    ("sent", "flags"),
    [
        (f"00-{TRACE_ID}-{SPAN_ID}-01", "01"),
        (f"00-{TRACE_ID}-{SPAN_ID}-00", "00"),
        (f"00-{TRACE_ID}-{SPAN_ID}-ff", "01"),
        (f"00-{TRACE_ID}-{SPAN_ID}-02", "00"),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01", "01"),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-brings", "01"),
    ],
)
def test_a_trace_is_continued_with_a_new_span(sent: str, flags: str) -> None:
    context = make_context({"HTTP_TRACEPARENT": sent})

    assert context.traceparent == f"00-{TRACE_ID}-{context.span_id}-{flags}"
    assert context.span_id != SPAN_ID


@pytest.mark.parametrize("sent", MALFORMED)
def test_a_malformed_traceparent_is_ignored(sent: str) -> None:
    context = make_context({"HTTP_TRACEPARENT": sent})

    assert VALID.fullmatch(context.traceparent)
    assert context.trace_id != TRACE_ID


@pytest.mark.slow
@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-x)?"))
def test_any_traceparent_is_answered_with_a_valid_one(sent: str) -> None:
    context = make_context({"HTTP_TRACEPARENT": sent})

    assert VALID.fullmatch(context.traceparent)
    assert context.trace_id in sent or not VALID.fullmatch(sent)


@given(st.text(max_size=80))
def test_every_request_id_is_well_formed(sent: str) -> None:
    made = make_context({"HTTP_X_REQUEST_ID": sent}).request_id

    assert re.fullmatch(r"[!-~]{1,128}", made)


@given(st.from_regex(r"[A-Za-z0-9._:/+=@-]{1,128}", fullmatch=True))
def test_a_well_formed_request_id_is_kept(sent: str) -> None:
    assert make_context({"HTTP_X_REQUEST_ID": sent}).request_id == sent


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, 'x"y', "<script>", "é", "a\n"])
def test_a_malformed_request_id_is_replaced(sent: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", make_context({"HTTP_X_REQUEST_ID": sent}).request_id)


def test_two_requests_share_no_identifiers() -> None:
    first, second = make_context({}), make_context({})

    assert len({first.request_id, second.request_id, first.trace_id, second.trace_id}) == 4
    assert first.span_id != second.span_id


@pytest.mark.parametrize("path", ["/livez", "/nowhere"])
def test_every_response_has_request_id_and_traceparent(path: str, mount: Mount) -> None:
    answer = mount().get(path, headers={"X-Request-ID": "my-id", "traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"})

    assert answer.headers["x-request-id"] == "my-id"
    assert answer.headers["traceparent"].startswith(f"00-{TRACE_ID}-")


# --- bodies -----------------------------------------------------------------------------------------------------------

LIMIT_BYTES = 10
LIMITS = BodyLimits(LIMIT_BYTES, LIMIT_BYTES, BodyBudget(10 * LIMIT_BYTES))


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
    context = {CONTEXT_KEY: make_context(environ)}
    return Request({**environ, **context, "wsgi.input": stream, **variables}), stream


@pytest.mark.parametrize("variables", [{"CONTENT_LENGTH": "3"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_a_body_is_read_to_its_end(variables: dict[str, str]) -> None:
    request, _ = make_request(b"abc", **variables)

    assert read_body(request, LIMITS) == b"abc"


def test_a_request_without_a_body_has_an_empty_one() -> None:
    request, stream = make_request(b"of the next request")

    assert (read_body(request, LIMITS), stream.taken_bytes) == (b"", 0)


def test_a_body_whose_content_length_is_too_large_is_not_read() -> None:
    request, stream = make_request(b"x" * 100, CONTENT_LENGTH="100")

    with pytest.raises(TooLargeError):
        read_body(request, LIMITS)
    assert stream.taken_bytes == 0


class FullMemory(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise MemoryError


@pytest.mark.parametrize("size_bytes", [3, LIMIT_BYTES])
def test_a_body_for_which_there_is_no_memory_is_not_malformed(size_bytes: int) -> None:
    request, _ = make_request(b"", CONTENT_LENGTH=str(size_bytes), **{"wsgi.input": FullMemory()})

    with pytest.raises(MemoryError):
        read_body(request, LIMITS)


def test_the_bodies_of_a_process_have_one_budget() -> None:
    limits = BodyLimits(LIMIT_BYTES, LIMIT_BYTES, BodyBudget(LIMIT_BYTES))
    (first, _), (second, _) = (make_request(b"x" * LIMIT_BYTES, CONTENT_LENGTH=str(LIMIT_BYTES)) for _ in range(2))
    read_body(first, limits)

    with pytest.raises(UnavailableError):
        read_body(second, limits)
    limits.budget.release(first.log_context)
    limits.budget.release(first.log_context)
    assert read_body(make_request(b"x" * LIMIT_BYTES, CONTENT_LENGTH="10")[0], limits) == b"x" * LIMIT_BYTES


def test_a_body_that_exceeds_the_budget_alone_is_too_large() -> None:
    request, _ = make_request(b"x" * LIMIT_BYTES, CONTENT_LENGTH=str(LIMIT_BYTES))

    with pytest.raises(TooLargeError):
        read_body(request, BodyLimits(LIMIT_BYTES, LIMIT_BYTES, BodyBudget(LIMIT_BYTES - 1)))


def test_a_chunked_body_is_read_up_to_the_limit() -> None:
    request, stream = make_request(b"x" * 100, HTTP_TRANSFER_ENCODING="Chunked")

    with pytest.raises(TooLargeError):
        read_body(request, LIMITS)
    assert stream.taken_bytes == LIMIT_BYTES + 1


def test_a_body_that_ends_early_is_malformed() -> None:
    request, _ = make_request(b"abc", CONTENT_LENGTH="5")

    with pytest.raises(MalformedError, match=r"^The body ended early\.$"):
        read_body(request, LIMITS)


@pytest.mark.parametrize(
    ("target", "mounted_at", "path", "link"),
    [
        ("/a%2Fb/c%2fd/?e=%2F", "", "/a|b/c|d", "/a%2Fb/c%2Fd/"),
        ("http://host.example:80/a%2Fb", "", "/a|b", "/a%2Fb"),
        ("/base/a%2F%C3%9F", "/base", "/a|ß", "/base/a%2F%C3%9F"),
        ("/a%252Fb/", "", "/a%2Fb", "/a%252Fb/"),
        ("/rewritten%2Fon/the/way", "", "/a/b", "/a/b"),
    ],
)
def test_an_encoded_slash_separates_no_segments(target: str, mounted_at: str, path: str, link: str) -> None:
    sent = unquote(link.removeprefix(mounted_at))
    environ = falcon.testing.create_environ(quote(sent), root_path=mounted_at)
    options = falcon.RequestOptions()
    options.strip_url_path_trailing_slash = True

    request = Request({**environ, "RAW_URI": target}, options)

    assert decode_path_parameter(request.path) == path.replace("|", "/")
    assert request.path.count("/") == path.count("/")
    assert request.url_path == link
