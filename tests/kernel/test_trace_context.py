"""Request ids, and W3C Trace Context in and out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http.request import make_context
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
def test_a_trace_is_continued_with_a_span_of_our_own(sent: str, flags: str) -> None:
    context = make_context({"HTTP_TRACEPARENT": sent})

    assert context.traceparent == f"00-{TRACE_ID}-{context.span_id}-{flags}"
    assert context.span_id != SPAN_ID


@pytest.mark.parametrize("sent", MALFORMED)
def test_a_malformed_traceparent_is_ignored(sent: str) -> None:
    context = make_context({"HTTP_TRACEPARENT": sent})

    assert VALID.fullmatch(context.traceparent)
    assert context.trace_id != TRACE_ID


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-x)?"))
def test_whatever_comes_in_a_valid_traceparent_goes_out(sent: str) -> None:
    context = make_context({"HTTP_TRACEPARENT": sent})

    assert VALID.fullmatch(context.traceparent)
    assert context.trace_id in sent or not VALID.fullmatch(sent)


@given(st.text(max_size=80))
def test_a_request_id_that_goes_out_is_sane(sent: str) -> None:
    made = make_context({"HTTP_X_REQUEST_ID": sent}).request_id

    assert re.fullmatch(r"[!-~]{1,128}", made)


@given(st.from_regex(r"[A-Za-z0-9._:/+=@-]{1,128}", fullmatch=True))
def test_a_sane_request_id_is_kept(sent: str) -> None:
    assert make_context({"HTTP_X_REQUEST_ID": sent}).request_id == sent


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, 'x"y', "<script>", "é", "a\n"])
def test_another_request_id_is_replaced(sent: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", make_context({"HTTP_X_REQUEST_ID": sent}).request_id)


def test_two_requests_share_no_identifiers() -> None:
    first, second = make_context({}), make_context({})

    assert len({first.request_id, second.request_id, first.trace_id, second.trace_id}) == 4
    assert first.span_id != second.span_id


@pytest.mark.parametrize("path", ["/livez", "/nowhere"])
def test_every_answer_carries_both_headers(path: str, mount: Mount) -> None:
    answer = mount().get(path, headers={"X-Request-ID": "my-id", "traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"})

    assert answer.headers["x-request-id"] == "my-id"
    assert answer.headers["traceparent"].startswith(f"00-{TRACE_ID}-")
