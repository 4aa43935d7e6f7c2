"""The request as handlers see it: its identifiers, and its body, read whole or as a stream and within limits."""

from __future__ import annotations

import io
import random
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import quote, unquote

import falcon
import msgspec

from kernel.contracts import ErrorBody
from kernel.deadline import ClientConnection, current_deadline
from kernel.errors import (
    ApiError,
    MalformedError,
    OtherClientError,
    TooLargeError,
    UnavailableError,
    UnsupportedMediaError,
)
from kernel.http.compression import CODINGS, DecompressionError, decompress, parse_content_encoding
from kernel.identity import Identity
from kernel.limits.rates import RateState

# Version 00 ends after the flags; later ones may go on.
_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SAMPLED = 0x01
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
# Stands for an encoded slash in the path that is routed. No decoded path contains a lone surrogate.
_SLASH_MARK = "\udc2f"
_READ_BYTES = 64 * 1024
# Members of gzip, or frames of zstd, that a body may have: empty ones take time, and there is room for millions.
_MEMBERS_MAX = 10_000
_BLANK_LINES_MAX = 1_000_000
# Of lines that are shorter than this on average, hardly any holds a JSON object of use.
_SHORT_LINE_BYTES = 32
# A line from its first character that is not blank.
_TEXT_LINE = re.compile(rb"\S[^\n]*")
_PIECE_MAX_BYTES = 1024 * 1024
# The key of the request's context in the WSGI environment.
CONTEXT_KEY = "tiercel.context"
# None of these names is registered, and all of them are in use.
_JSON_LINES = frozenset(
    f"application/{name}"
    for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines", "json-lines")
)
# A page can have these sent to any other site, without asking that site first (https://fetch.spec.whatwg.org/#cors).
FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
# ASCII is a part of UTF-8.
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
# No media range (RFC 9110, 12.5.1). Java's HttpURLConnection sends it by itself, after ``text/html``, for programs that
# do not expect HTML.
_BARE_ASTERISK = re.compile(r"(?:^|,)\s*\*\s*(?:[;,]|$)")
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)


# --- identifiers ------------------------------------------------------------------------------------------------------


class RequestContext(msgspec.Struct):
    """What the access log knows about a request, outside Falcon as well.

    Args:
        request_id: The client's ``X-Request-ID`` if it is well-formed, else a new one.
        trace_id: 32 hexadecimal digits of W3C Trace Context.
        span_id: 16 hexadecimal digits; our own span.
        sampled: ``01`` if the trace is sampled, else ``00``. Other flags are not propagated.
        parent_id: The span of the client, 16 hexadecimal digits; empty if it sent none.
        template: The route that answered, such as ``/api/requests/{id}``; empty if none did.
        logged: False leaves the request out of the access log and its subscribers, as for probes.
        application: Slug of the application whose view was asked for, if the path named one.
        body_bytes: How much of its body is held in memory; see ``BodyBudget``.
        received_bytes: How much of its body was read, as it was sent.
        started_ns: When it arrived, of ``time.perf_counter_ns``.
        tracked_for: The account that may see what it takes, if that is tracked.
        rate_state: What is left of the rate that it is counted for.
        error_body: The body of an error, if the route has another one than the kernel's.
        requester: Who sends it, as far as pages show that; unset until it is asked for. See ``Authorizer.requester``.
    """

    request_id: str
    trace_id: str
    span_id: str
    sampled: str
    parent_id: str = ""
    template: str = ""
    logged: bool = True
    application: str | None = None
    body_bytes: int = 0
    received_bytes: int = 0
    started_ns: int = 0
    tracked_for: int | None = None
    rate_state: RateState | None = None
    error_body: ErrorBody | None = None
    requester: Identity | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def traceparent(self) -> str:
        """The header that propagates this trace, with our own span as parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled}"


def make_context(environ: Mapping[str, Any]) -> RequestContext:
    """Read the identifiers of a request, or make new ones.

    Source: https://www.w3.org/TR/trace-context/ for ``traceparent``. A malformed one is ignored, as it demands.
    """
    # Unlike os.urandom, this does not release the GIL, for which this thread would have to wait again. Identifiers tell
    # requests apart and are not secret; after a fork, Python seeds the generator anew.
    digits = random.getrandbits(320).to_bytes(40).hex()
    given = environ.get("HTTP_X_REQUEST_ID")
    request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else digits[:32]
    parent = environ.get("HTTP_TRACEPARENT")
    trace = None if parent is None else _TRACEPARENT.fullmatch(parent)
    if trace is None:
        return RequestContext(request_id, digits[32:64], digits[64:], "01")
    return RequestContext(request_id, trace[1], digits[64:], f"{int(trace[3], 16) & _SAMPLED:02x}", trace[2])


def path_as_sent(environ: Mapping[str, Any]) -> str:
    """Return the path of a request with its trailing slash, as text: WSGI has its bytes as Latin-1 (PEP 3333)."""
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "/")
    return path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace")


def _mark_encoded_slashes(environ: Mapping[str, Any]) -> str | None:
    """Return the path of a request with a mark for each ``%2F``, which is data and separates nothing (RFC 3986, 2.2).

    WSGI has only the decoded path, but gunicorn also the target of the request as it was sent.

    Returns:
        The path, with that of the mount point; None without an encoded slash, or if the target is of another path.
    """
    target, _, _ = environ.get("RAW_URI", "").partition("?")
    if not _ENCODED_SLASH.search(target):
        return None
    if not target.startswith("/"):
        # The absolute form: scheme, host and path.
        target = "/" + target.partition("://")[2].partition("/")[2]
    marked = _SLASH_MARK.join(map(unquote, _ENCODED_SLASH.split(target)))
    return marked if marked.replace(_SLASH_MARK, "/") == path_as_sent(environ) else None


def decode_path_parameter(text: str) -> str:
    """Return a parameter of the routed path with the slashes that were encoded."""
    return text.replace(_SLASH_MARK, "/")


class Request(falcon.Request):
    """A Falcon request with the identifiers of the access log. In ``path``, an encoded slash separates no segments."""

    __slots__ = ()

    def __init__(self, env: dict[str, Any], options: falcon.RequestOptions | None = None) -> None:
        super().__init__(env, options)
        marked = _mark_encoded_slashes(env)
        if marked is not None:
            self.path = marked[len(self.root_path) :].removesuffix("/")

    @property
    def log_context(self) -> RequestContext:
        """Identifiers and route of this request."""
        context: RequestContext = self.env[CONTEXT_KEY]
        return context

    @property
    def prefers_html(self) -> bool:
        """Whether the client would rather have a page than JSON, as a browser in which a person opens a link.

        A response that depends on it says so: ``Vary: Accept``.
        """
        accept: str = self.env.get("HTTP_ACCEPT", "")
        # Before it is parsed, which takes longer than all that most requests do.
        if "text/html" not in accept or _BARE_ASTERISK.search(accept):
            return False
        return self.client_prefers((falcon.MEDIA_JSON, falcon.MEDIA_HTML)) == falcon.MEDIA_HTML

    @property
    def client(self) -> ClientConnection | None:
        """The connection to the client; None under servers that do not tell what becomes of it."""
        connection = self.env.get("gunicorn.socket")
        return cast(ClientConnection, connection) if hasattr(connection, "is_gone") else None

    @property
    def request_id(self) -> str:
        """The id that the response has as ``X-Request-ID``."""
        return self.log_context.request_id

    @property
    def path_as_sent(self) -> str:
        """The path with its trailing slash, which Falcon strips from ``path``."""
        return path_as_sent(self.env)

    @property
    def origin(self) -> str:
        """Scheme and host, such as ``https://api.example``: what absolute links begin with."""
        # What trusted proxies say of both is in the environment already; see ``kernel.http.forwarding``.
        return f"{self.scheme}://{self.netloc}"

    @property
    def url_path(self) -> str:
        """The path as sent, quoted for use in a link."""
        path = _mark_encoded_slashes(self.env) or self.path_as_sent
        return "%2F".join(map(quote, path.split(_SLASH_MARK)))

    @property
    def link(self) -> str:
        """A link to this very page: its path and query string."""
        return f"{self.url_path}?{self.query_string}" if self.query_string else self.url_path


# --- bodies -----------------------------------------------------------------------------------------------------------


class BodyBudget:
    """How many bytes of bodies a process holds in memory at most, over all requests.

    What is made of a body takes a few times its bytes. What has not arrived yet takes none, so that a client that
    announces a large body, or sends it slowly, leaves the room to others.

    Args:
        max_bytes: The most.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()

    def hold(self, context: RequestContext, size_bytes: int) -> None:
        """Account for bytes of a request that have arrived.

        Raises:
            TooLargeError: They alone exceed the budget.
            UnavailableError: Those of all requests do.
        """
        if context.body_bytes + size_bytes > self.max_bytes:
            raise TooLargeError(detail=f"the body has more than {self.max_bytes} bytes")
        with self._lock:
            if self._held_bytes + size_bytes > self.max_bytes:
                raise UnavailableError("too many bytes of requests are being processed")
            self._held_bytes += size_bytes
        context.body_bytes += size_bytes

    def release(self, context: RequestContext) -> None:
        """Give back what a request holds."""
        if context.body_bytes:
            with self._lock:
                self._held_bytes -= context.body_bytes
            context.body_bytes = 0


class BodyLimits(msgspec.Struct, frozen=True):
    """How large a body may be.

    Args:
        sent_bytes: As it is sent.
        decoded_bytes: What a compressed one may decompress to.
        budget: Of the process.
    """

    sent_bytes: int
    decoded_bytes: int
    budget: BodyBudget

    def at_most(self, max_bytes: int) -> BodyLimits:
        """Return these limits, lowered to a number of bytes."""
        return BodyLimits(min(self.sent_bytes, max_bytes), min(self.decoded_bytes, max_bytes), self.budget)


class RawBody(msgspec.Struct, frozen=True):
    """A body that the handler decodes itself: annotate the parameter ``body`` with it.

    Args:
        content: The bytes, decompressed, at most ``body_max_bytes`` of the route.
        media_type: Without parameters, in lower case; empty if the client named none.
    """

    content: bytes
    media_type: str


class StreamBody:
    """A body that the handler reads while it arrives, once: annotate the parameter ``body`` with it.

    Read it with one of ``read``, ``read_sent``, ``chunks`` and ``lines``. All raise ``MalformedError`` if the body ends
    early or is corrupt, ``OtherClientError`` (408) if the client stops sending, ``TooLargeError`` beyond a limit, and
    ``UnavailableError`` if the process holds too many bytes of bodies. A handler that does not keep what it has read
    calls ``release``.

    Args:
        request: Whose body it is.
        limits: How large it may be.
    """

    def __init__(self, request: Request, limits: BodyLimits) -> None:
        self._request = request
        self._limits = limits
        self.media_type = media_type(request)

    def read(self, max_bytes: int) -> bytes:
        """Read the whole body.

        Args:
            max_bytes: How many it may have, as sent and decompressed.
        """
        return read_body(self._request, self._limits.at_most(max_bytes))

    def read_sent(self, max_bytes: int) -> bytes:
        """Read the whole body as it was sent: what is compressed stays so, as where its bytes are signed.

        Args:
            max_bytes: The most that the body may have.

        Raises:
            TooLargeError: It has more.
        """
        limits = msgspec.structs.replace(self._limits, sent_bytes=min(max_bytes, self._limits.sent_bytes))
        return b"".join(_chunks_as_sent(self._request, limits))

    def chunks(self) -> Iterator[bytes]:
        """Read the body chunk by chunk, decompressed."""
        for chunk in read_chunks(self._request, self._limits):
            self._limits.budget.hold(self._request.log_context, len(chunk))
            yield chunk

    def release(self) -> None:
        """Tell that nothing of what has been read is kept, so that it does not count as held any more."""
        self._limits.budget.release(self._request.log_context)

    def lines(self, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Read the body line by line, without line ends; each with its position, from 0.

        Blank lines may be left out, but count in the positions.

        Args:
            max_line_bytes: The longest line allowed; no more than this and a chunk is held in memory.

        Raises:
            TooLargeError: A line is longer.
        """
        parts: list[bytes] = []
        held_bytes = blank_lines = position = 0
        for chunk in self.chunks():
            blank_lines = blank_lines + chunk.count(b"\n") if chunk.isspace() else 0
            if blank_lines > _BLANK_LINES_MAX:
                raise TooLargeError("Too many blank lines.", detail=f"more than {_BLANK_LINES_MAX} follow one another")
            head, end, rest = chunk.rpartition(b"\n")
            if end:
                text = b"".join((*parts, head))
                yield from _split_lines(text, position, max_line_bytes)
                position += text.count(b"\n") + 1
                parts, held_bytes = [], 0
            if rest:
                parts.append(rest)
                held_bytes += len(rest)
            if held_bytes > max_line_bytes:
                raise _line_too_long(max_line_bytes)
        if parts:
            yield position, b"".join(parts)


def _split_lines(text: bytes, position: int, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    if text.count(b"\n") * _SHORT_LINE_BYTES < len(text):
        lines = text.split(b"\n")
        if max(map(len, lines)) > max_line_bytes:
            raise _line_too_long(max_line_bytes)
        yield from enumerate(lines, position)
        return
    # Most lines are blank, or as good as that. There may be millions, which are skipped many times faster this way.
    end = 0
    for found in _TEXT_LINE.finditer(text):
        position += text.count(b"\n", end, found.start())
        end = found.end()
        yield position, found[0]


def _line_too_long(max_line_bytes: int) -> TooLargeError:
    return TooLargeError("A line is too long.", detail=f"it has more than {max_line_bytes} bytes")


def media_type(request: Request) -> str:
    """Return the media type of the body without parameters, in lower case; empty if the client named none."""
    return (request.content_type or "").partition(";")[0].strip().lower()


def require_json(request: Request, *, or_else: str | None = None) -> None:
    """Ensure that the body is declared as JSON.

    A page of another site can post forms and plain text without a preflight request; JSON it cannot.

    Args:
        request: The request.
        or_else: Another media type that the handler takes, for the message.

    Raises:
        UnsupportedMediaError: The media type is not JSON, or its charset is not UTF-8.
    """
    kind = media_type(request)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        expected = "application/json" if or_else is None else f"application/json or {or_else}"
        raise UnsupportedMediaError(detail=f"expected {expected}, got {kind or 'no Content-Type'}")
    ensure_utf8(request)


def is_json_lines(request: Request) -> bool:
    """Tell whether the body is declared as JSON values, one a line, under any of the names in use for that.

    Raises:
        UnsupportedMediaError: It is, and its charset is not UTF-8.
    """
    if media_type(request) not in _JSON_LINES:
        return False
    ensure_utf8(request)
    return True


def ensure_utf8(request: Request) -> None:
    """Ensure that the body is text in UTF-8, as far as its declaration says.

    Raises:
        UnsupportedMediaError: It is declared as another one.
    """
    charset = _CHARSET.search(request.content_type or "")
    if charset is not None and charset[1].lower() not in _CHARSETS:
        raise UnsupportedMediaError(
            "The charset of the body is not supported.", detail=f"expected utf-8, got {charset[1]}"
        )


def read_body(request: Request, limits: BodyLimits) -> bytes:
    """Read the whole body, decompressed.

    Raises:
        UnsupportedMediaError: The content coding is unknown; nothing is read.
        TooLargeError: It is larger than a limit; nothing beyond the limit is read.
        MalformedError: It ends before ``Content-Length``, its chunks are wrong, or what is compressed is corrupt.
        OtherClientError: The client stopped sending (408).
        UnavailableError: The process holds too many bytes of bodies.
    """
    coding = _content_coding(request)
    expected_bytes = _expected_bytes(request, limits)
    if coding is None and expected_bytes is not None:
        pieces = list(_growing_pieces(request, limits, expected_bytes))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    # BytesIO hands out its buffer without a copy.
    buffer = io.BytesIO()
    for chunk in read_chunks(request, limits):
        limits.budget.hold(request.log_context, len(chunk))
        buffer.write(chunk)
    return buffer.getvalue()


def _growing_pieces(request: Request, limits: BodyLimits, expected_bytes: int) -> Iterator[bytes]:
    """Read a body in pieces, each as large as what has arrived: few, and never much that is not accounted for."""
    arrived_bytes = 0
    while arrived_bytes < expected_bytes:
        size_bytes = min(max(_READ_BYTES, arrived_bytes), _PIECE_MAX_BYTES, expected_bytes - arrived_bytes)
        piece = _read(request, size_bytes)
        if not piece:
            break
        arrived_bytes += len(piece)
        limits.budget.hold(request.log_context, len(piece))
        yield piece
    _ensure_complete(arrived_bytes, expected_bytes)


def read_chunks(request: Request, limits: BodyLimits) -> Iterator[bytes]:
    """Read the body while it arrives, decompressed. Raises as ``read_body`` does, also after the first chunks."""
    coding = _content_coding(request)
    sent = _chunks_as_sent(request, limits)
    return sent if coding is None else _decompressed(sent, coding, limits)


def _content_coding(request: Request) -> str | None:
    header = request.get_header("Content-Encoding")
    if header is None:
        return None
    try:
        return parse_content_encoding(header)
    except ValueError as ex:
        known = ", ".join(CODINGS)
        raise UnsupportedMediaError(
            "The Content-Encoding of the body is not supported.",
            detail=f"expected one Content-Encoding of {known}; got {header!r:.80}",
            headers={"Accept-Encoding": known},
        ) from ex


def _decompressed(chunks: Iterator[bytes], coding: str, limits: BodyLimits) -> Iterator[bytes]:
    deadline = current_deadline()
    try:
        for piece in decompress(chunks, coding, limits.decoded_bytes, members_max=_MEMBERS_MAX):
            deadline.check()
            yield piece
    except DecompressionError as ex:
        raise _decompression_failed(ex, coding, limits) from ex


def _decompression_failed(error: DecompressionError, coding: str, limits: BodyLimits) -> ApiError:
    if error.reason == "too_many_members":
        return TooLargeError(detail=str(error))
    if error.reason == "too_large":
        return TooLargeError(detail=f"the body decodes to more than {limits.decoded_bytes} bytes")
    if error.reason == "truncated":
        return MalformedError("The body ended early.", detail=f"its {coding} stream is not complete")
    return MalformedError(f"The body is not valid {coding}.", detail=str(error))


def _chunks_as_sent(request: Request, limits: BodyLimits) -> Iterator[bytes]:
    expected_bytes = _expected_bytes(request, limits)
    limit_bytes = limits.sent_bytes if expected_bytes is None else expected_bytes
    arrived_bytes = 0
    # Without Content-Length, one byte beyond the limit tells that the body is larger.
    beyond_bytes = 1 if expected_bytes is None else 0
    deadline = current_deadline()
    while chunk := _read(request, min(_READ_BYTES, limit_bytes + beyond_bytes - arrived_bytes)):
        arrived_bytes += len(chunk)
        if arrived_bytes > limit_bytes:
            raise TooLargeError(detail=f"the body has more than {limit_bytes} bytes")
        deadline.check()
        yield chunk
    if expected_bytes is not None:
        _ensure_complete(arrived_bytes, expected_bytes)


def _expected_bytes(request: Request, limits: BodyLimits) -> int | None:
    """Return the length of the body as sent; None if it is chunked and only its end will tell."""
    expected_bytes: int | None = request.content_length
    if expected_bytes is None:
        chunked = "chunked" in request.get_header("Transfer-Encoding", default="").lower()
        return None if chunked else 0
    if expected_bytes > limits.sent_bytes:
        raise TooLargeError(detail=f"the body has {expected_bytes} bytes; the limit is {limits.sent_bytes}")
    return expected_bytes


def _read(request: Request, size_bytes: int) -> bytes:
    if size_bytes == 0:
        return b""
    # Without a length, the WSGI server ends the stream after the last chunk.
    stream = request.bounded_stream if request.content_length is not None else request.stream
    try:
        content: bytes = stream.read(size_bytes)
    except TimeoutError as ex:
        raise OtherClientError(408, "The body did not arrive in time.") from ex
    except MemoryError:
        raise  # not the client's fault
    except Exception as ex:
        # WSGI servers have exceptions of their own for each way in which a client can get chunks wrong.
        raise MalformedError("The body cannot be read.", detail=str(ex)) from ex
    request.log_context.received_bytes += len(content)
    return content


def _ensure_complete(arrived_bytes: int, expected_bytes: int) -> None:
    if arrived_bytes < expected_bytes:
        raise MalformedError("The body ended early.", detail=f"{arrived_bytes} of {expected_bytes} bytes arrived")
