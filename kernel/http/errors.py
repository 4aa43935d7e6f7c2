"""Errors as responses: one body for all of them, RFC 9457 for clients that ask for it, or a page for people.

A route whose protocol demands another body has one of its own: see ``kernel.contracts.ErrorBody``.

Where the text of an error comes from: ``kernel.errors`` has a class for each status, with its ``code`` and
``default_message``. The code that raises it can pass a more precise ``message``, and a ``detail``: ``request.py`` for
bodies (413, 415), ``routing.py`` for JSON, query string and path, ``pagination.py`` for pages, ``auth.py`` for hosts
and policies. ``translate`` converts errors that Falcon raises. ``body`` and ``problem`` build the response::

    413 {"success": false, "error": "The request is too large.", "detail": "the body has more than 1024 bytes",
         "code": "too_large", "request_id": "..."}

``http.unified_errors = false`` replaces it by the body that Falcon itself would send (``plain``).
"""

from __future__ import annotations

import http
from collections.abc import Callable
from typing import Any

import falcon
import msgspec

from kernel.errors import (
    ApiError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    NotSupportedError,
    OtherClientError,
    OutOfMemoryError,
)
from kernel.http.panels import PANEL_HEADER
from kernel.http.request import FORM_TYPES, Request, media_type
from kernel.http.response import FalconResponse
from kernel.http.templating import Templates
from kernel.logging import Logger

PROBLEM_JSON = "application/problem+json"
# A browser sends these for what a person opens, and forms. What a script sends is answered as it is to other programs.
_NAVIGATION_METHODS = frozenset({"GET", "HEAD"})
_RELOAD_MIN_S = 10
# nginx's 499 is not registered.
_PHRASES = {499: "Client Closed Request", **{status.value: status.phrase for status in http.HTTPStatus}}


def body(error: ApiError, request_id: str) -> dict[str, Any]:
    """Return the body of an error: success, error, detail, code, errors by field if there are any, request_id."""
    members: dict[str, Any] = {
        "success": False,
        "error": error.message,
        "detail": error.detail,
        "code": error.code,
    }
    if error.errors:
        members["errors"] = error.errors
    return {**members, **error.extra, "request_id": request_id}


def problem(error: ApiError, request_id: str) -> dict[str, Any]:
    """Return the body as ``application/problem+json`` (RFC 9457), with the remaining members as extensions."""
    members = body(error, request_id)
    del members["success"], members["error"], members["detail"]
    return {
        "type": "about:blank",
        "title": _PHRASES[error.status],
        "status": error.status,
        "detail": _describe(error),
        **members,
    }


def plain(error: ApiError, _request_id: str) -> dict[str, Any]:
    """Return the body as Falcon makes it, for clients that know no envelope: title, description, errors by field.

    The members are those of ``falcon.HTTPError.to_dict``.
    """
    members: dict[str, Any] = {"title": falcon.code_to_http_status(error.status), "description": _describe(error)}
    if error.errors:
        members["errors"] = error.errors
    return {**members, **error.extra}


def _describe(error: ApiError) -> str:
    return f"{error.message} ({error.detail})" if error.detail else error.message


def translate(error: falcon.HTTPError, request: Request) -> ApiError:
    """Return the ``ApiError`` for an error that Falcon raised: no route, wrong method, malformed header ..."""
    own: ApiError = InternalError()
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        own = NotFoundError(detail=f"no route for {request.path_as_sent}")
    elif error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        own = MethodNotAllowedError(detail=f"{request.method} {request.path_as_sent}")
    elif request.method not in falcon.COMBINED_METHODS:
        own = NotSupportedError(f"There is no method {request.method:.20}.")
    elif error.status_code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        message = error.description or http.HTTPStatus(error.status_code).phrase
        own = OtherClientError(error.status_code, message, detail=error.title)
    own.headers.update(dict(error.headers or {}))
    return own


def _make_page(error: ApiError, request: Request, templates: Templates) -> bytes:
    retry_after = error.headers.get("Retry-After", "")
    # A page that tries again by itself, open in many browsers, must not be what keeps the service from recovering.
    reload_after_s = max(int(retry_after), _RELOAD_MIN_S) if retry_after.isdecimal() else None
    may_reload = error.status == http.HTTPStatus.SERVICE_UNAVAILABLE
    context = {
        "status": error.status,
        "phrase": _PHRASES[error.status],
        "message": error.message,
        "detail": error.detail,
        "errors": error.errors or {},
        "reload_after_s": reload_after_s if may_reload else None,
        "url": request.relative_uri,
    }
    return templates.render(request, "kernel/error.html", context)


class ErrorHandlers:
    """Falcon's error handlers, for everything that a handler or Falcon itself raises.

    Args:
        log: Gets the traceback of exceptions that are not ``ApiError``.
        templates: Render the page of an error.
        sign_in_link: Returns where a browser is sent that has to sign in; None if it cannot.
        debug: Whether ``detail`` shows such an exception.
        unified: Whether the body is ours, and not Falcon's.
    """

    def __init__(
        self,
        log: Logger,
        templates: Templates,
        sign_in_link: Callable[[Request], str | None],
        *,
        debug: bool,
        unified: bool,
    ) -> None:
        self._log = log
        self._templates = templates
        self._sign_in_link = sign_in_link
        self._debug = debug
        self._unified = unified

    def install(self, app: falcon.App[Request, FalconResponse]) -> None:
        """Register the handlers with a Falcon application."""
        app.add_error_handler(Exception, self.handle_unexpected)
        app.add_error_handler(falcon.HTTPError, self.handle_falcon_error)
        app.add_error_handler(ApiError, self.handle_api_error)

    def handle_api_error(
        self, request: Request, response: FalconResponse, error: ApiError, _params: dict[str, Any]
    ) -> None:
        """Write an ``ApiError``."""
        self._write(request, response, error)

    def handle_falcon_error(
        self, request: Request, response: FalconResponse, error: falcon.HTTPError, _params: dict[str, Any]
    ) -> None:
        """Write an error that Falcon raised."""
        self._write(request, response, translate(error, request))

    def handle_unexpected(
        self, request: Request, response: FalconResponse, error: Exception, _params: dict[str, Any]
    ) -> None:
        """Log any other exception, and write a 500 that does not reveal it; 503 if memory is short."""
        self._log.error("request_failed", request_id=request.request_id, path=request.path_as_sent, exc_info=error)
        own: ApiError = InternalError(detail=repr(error) if self._debug else None)
        if isinstance(error, MemoryError):
            own = OutOfMemoryError()
        self._write(request, response, own)

    def _write(self, request: Request, response: FalconResponse, error: ApiError) -> None:
        """Write an error into a response. Every error passes here."""
        response.status = falcon.code_to_http_status(error.status)
        error_body = request.log_context.error_body
        if error_body is None:
            response.set_header("Vary", "Accept")
        for name, value in error.headers.items():
            response.set_header(name, value)
        if error_body is not None:
            response.content_type, response.data = error_body.encode(error, media_type(request))
            return
        wants_problem = PROBLEM_JSON in (request.accept or "")
        is_navigation = request.method in _NAVIGATION_METHODS or media_type(request) in FORM_TYPES
        if request.prefers_html and not wants_problem and is_navigation:
            if self._redirect_to_sign_in(request, response, error):
                return
            response.content_type = falcon.MEDIA_HTML
            response.data = _make_page(error, request, self._templates)
            return
        make_body = problem if wants_problem else body if self._unified else plain
        response.content_type = PROBLEM_JSON if wants_problem else falcon.MEDIA_JSON
        response.data = msgspec.json.encode(make_body(error, request.request_id))

    def _redirect_to_sign_in(self, request: Request, response: FalconResponse, error: ApiError) -> bool:
        """Send a person who has to sign in to the page for that; not with a form, of which nothing should get lost."""
        is_page = request.method in _NAVIGATION_METHODS and request.get_header(PANEL_HEADER) is None
        if error.status != http.HTTPStatus.UNAUTHORIZED or not is_page:
            return False
        link = self._sign_in_link(request)
        if link is None:
            return False
        response.status = falcon.HTTP_303
        response.set_header("Location", link)
        response.set_header("Cache-Control", "no-store")
        # A browser that is challenged asks for a password in a window of its own.
        response.delete_header("WWW-Authenticate")
        return True
