"""What handlers return: a value, an envelope around it, or a response with a status or headers of its own."""

from __future__ import annotations

import http
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Generic, TypeVar

import falcon
import msgspec

from kernel.applications import slug_of
from kernel.contracts import Application
from kernel.http.conditional import is_unmodified
from kernel.http.notices import take_notice
from kernel.http.panels import PANEL_HEADER, SCRIPTS_COOKIE, Panel, render_page
from kernel.http.request import Request
from kernel.http.templating import Templates
from kernel.tracking import measure

T = TypeVar("T")


# --- responses --------------------------------------------------------------------------------------------------------


class Response(msgspec.Struct, Generic[T], frozen=True):
    """A response with a status or headers of its own.

    Args:
        body: Encoded as JSON; None for no body, with status 204.
        status: HTTP status.
        headers: Further response headers.
        cookies: Headers ``Set-Cookie``, of which there may be several.
    """

    body: T
    status: int = 200
    headers: Mapping[str, str] = {}
    cookies: Sequence[str] = ()


class StreamingResponse(msgspec.Struct, frozen=True):
    """A body that is sent chunk by chunk. Return it as it is, or as the body of a ``Response``.

    It occupies a thread of the server until its end; see ``ConcurrencyLimit``.

    Args:
        chunks: The chunks, each sent as soon as it is there. If they have a method ``close``, it is called in the end,
            also when the client has disconnected.
        media_type: The header ``Content-Type``.
    """

    chunks: Iterable[bytes]
    media_type: str


class TemplateResponse(msgspec.Struct, frozen=True):
    """An HTML page, made from a template. Return it as it is, or as the body of a ``Response``.

    A route whose handler is annotated to return one is in the menu of every page, if it has a ``menu``.

    Args:
        template: Its name, such as ``shop/orders.html`` for ``templates/orders.html`` of the plugin ``shop``.
        context: Its variables by name. One that it uses and does not get is an error.
        data: What programs get, encoded as JSON, where the same path is for both. Without it, everybody gets the page.
        panels: Parts by name, which fail one by one and not with the page. A name is an ``id`` in the page.
    """

    template: str
    context: Mapping[str, Any] = {}
    data: Any = msgspec.UNSET
    panels: Mapping[str, Panel] = {}


class PreparedResponse(msgspec.Struct, frozen=True):
    """A response that is ready to be sent, such as a cached one: encoded, and compressed as the client accepts it.

    Args:
        status: The status line, such as ``200 OK``.
        headers: By name in lower case. The response takes over the dictionary.
        content: The bytes, JSON unless a header says otherwise; None for no body.
    """

    status: str
    headers: dict[str, str]
    content: bytes | None


class FalconResponse(falcon.Response):
    """A Falcon response that can take a ``PreparedResponse`` as a whole."""

    # Whether middleware must leave it alone.
    is_prepared = False

    def prepare(self, prepared: PreparedResponse) -> None:
        """Take over status, headers and body, without the checks that ``set_header`` makes on each."""
        self.status = prepared.status
        self._headers.update(prepared.headers)
        self.data = prepared.content
        self.is_prepared = True

    @property
    def is_page(self) -> bool:
        """Whether it is HTML."""
        return self._headers.get("content-type", "").startswith("text/html")

    def complete_headers(self, defaults: Mapping[str, str]) -> dict[str, str]:
        """Add headers that are not set yet, and return all of them by name in lower case, to be changed."""
        self._headers = headers = {**defaults, **self._headers}
        return headers

    def close_stream(self) -> None:
        """Close a stream that is not going to be sent, as after HEAD."""
        close = getattr(self.stream, "close", None)
        if close is not None:
            close()


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")


_JSON = msgspec.json.Encoder(enc_hook=_encode)


def write_response(
    request: Request, response: FalconResponse, value: object, templates: Templates, *, is_enveloped: bool
) -> None:
    """Write what a handler returned into Falcon's response.

    Args:
        request: The request; the ``ETag`` of the response may match its conditions.
        response: What is written to.
        value: Returned by the handler.
        templates: Render pages.
        is_enveloped: Put the value into an ``Envelope``, unless it is one, or no JSON.

    Raises:
        PreconditionFailedError: See ``is_unmodified``.
    """
    if isinstance(value, PreparedResponse):
        response.prepare(value)
        return
    if isinstance(value, Response):
        _write_head(response, value)
        value = value.body
        if value is None:
            return
    if isinstance(value, TemplateResponse) and value.data is not msgspec.UNSET:
        response.append_header("Vary", "Accept")
        value = value if request.prefers_html else value.data
    if isinstance(value, StreamingResponse):
        response.content_type = value.media_type
        response.stream = value.chunks
    elif isinstance(value, TemplateResponse):
        _write_page(request, response, value, templates)
    else:
        with measure("encoding"):
            needs_envelope = is_enveloped and not isinstance(value, Envelope)
            response.data = _JSON.encode(envelope(request, value) if needs_envelope else value)
    etag = response.get_header("ETag")
    if etag is not None and response.status_code == http.HTTPStatus.OK and request.method in ("GET", "HEAD"):
        _apply_conditions(request, response, etag)


def _write_head(response: FalconResponse, head: Response[Any]) -> None:
    response.status = falcon.code_to_http_status(head.status)
    for name, text in head.headers.items():
        # Falcon keeps cookies apart: there may be several.
        add = response.append_header if name.lower() == "set-cookie" else response.set_header
        add(name, text)
    for cookie in head.cookies:
        response.append_header("Set-Cookie", cookie)


def _write_page(request: Request, response: FalconResponse, page: TemplateResponse, templates: Templates) -> None:
    response.content_type = falcon.MEDIA_HTML
    if page.panels:
        response.append_header("Vary", PANEL_HEADER)
    with measure("encoding"):
        # Who asks for a single panel shows none.
        notice = None if request.get_header(PANEL_HEADER) else take_notice(request, response)
        context = {"notice": notice, **page.context}
        response.data, is_complete = render_page(request, templates, page.template, context, page.panels)
    if not is_complete:
        # The script gives it back. Without one, the page is complete when it is loaded again.
        response.append_header("Set-Cookie", f"{SCRIPTS_COOKIE}=; Path=/; Max-Age=0; SameSite=Lax")


def _apply_conditions(request: Request, response: FalconResponse, etag: str) -> None:
    unmodified = True
    try:
        unmodified = is_unmodified(request, etag)
    finally:
        if unmodified:
            response.close_stream()
            response.stream = response.data = None
    if unmodified:
        response.status = falcon.HTTP_304
        response.delete_header("Content-Type")


# --- envelopes --------------------------------------------------------------------------------------------------------


class Envelope(msgspec.Struct, Generic[T], frozen=True):
    """The body of a successful response under ``/api/v1``, where every route has it unless it returns no JSON.

    Args:
        success: Always true; the body of an error has false.
        data: What was asked for.
        request_id: As in ``X-Request-ID``.
    """

    success: bool
    data: T
    request_id: str


def envelope(request: Request, data: T) -> Envelope[T]:
    """Return the body that routes under ``/api/v1`` have, for a route elsewhere.

    Example::

        @route("/shop/orders/{id}/", policy="read")
        def show(self, request: Request, id: int) -> Envelope[Order]:
            return envelope(request, self._orders.find(id))
    """
    return Envelope(success=True, data=data, request_id=request.request_id)


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """The body of a list on a route per application.

    Args:
        data: The items.
        meta: ``application``, ``endpoint``, ``total_items`` and further members.
    """

    data: Sequence[T]
    meta: dict[str, Any]


class Single(msgspec.Struct, Generic[T], frozen=True):
    """The body of one item on a route per application.

    Args:
        data: The item.
        meta: ``application``, ``endpoint``, ``total_items``, which is 1, and further members.
    """

    data: T
    meta: dict[str, Any]


def listing(request: Request, application: Application | None, items: Sequence[T], **meta: Any) -> Listing[T]:
    """Return the body of a list on a route per application.

    Args:
        request: Its path becomes ``meta.endpoint``.
        application: Whose view it is; None for the unfiltered view.
        items: All items of that view.
        meta: Further members of ``meta``.
    """
    return Listing(items, envelope_meta(request, application, len(items)) | meta)


def single(request: Request, application: Application | None, item: T, **meta: Any) -> Single[T]:
    """Return the body of one item on a route per application.

    Args:
        request: Its path becomes ``meta.endpoint``.
        application: Whose view it is; None for the unfiltered view.
        item: The item.
        meta: Further members of ``meta``.
    """
    return Single(item, envelope_meta(request, application, 1) | meta)


def envelope_meta(request: Request, application: Application | None, total_items: int) -> dict[str, Any]:
    """Return the members of ``meta`` that every route per application has."""
    return {"application": slug_of(application), "endpoint": request.path_as_sent, "total_items": total_items}
