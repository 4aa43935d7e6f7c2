"""Errors as answers: one body for all, and the same facts as RFC 9457 for clients that ask for them."""

from __future__ import annotations

import http
from typing import Any

import falcon
import msgspec

from kernel.errors import ApiError, InternalError, MethodNotAllowedError, NotFoundError, OtherClientError
from kernel.http.request import Request
from kernel.http.response import FalconResponse
from kernel.logging import Logger

PROBLEM_JSON = "application/problem+json"


def body(error: ApiError, request_id: str) -> dict[str, Any]:
    """Return the body every error has: success, error, detail, code, errors by field if any, request_id."""
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
    """Return the same facts as https://www.rfc-editor.org/rfc/rfc9457 names them, the rest as extension members."""
    members = body(error, request_id)
    del members["success"], members["error"], members["detail"]
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": f"{error.message} ({error.detail})" if error.detail else error.message,
        **members,
    }


def respond(request: Request, response: FalconResponse, error: ApiError) -> None:
    """Write an error into a response. The only place that does."""
    wants_problem = PROBLEM_JSON in (request.accept or "")
    shape = problem if wants_problem else body
    response.status = falcon.code_to_http_status(error.status)
    response.content_type = PROBLEM_JSON if wants_problem else falcon.MEDIA_JSON
    response.data = msgspec.json.encode(shape(error, request.request_id))
    response.set_header("Vary", "Accept")
    for name, value in error.headers.items():
        response.set_header(name, value)


class ErrorHandlers:
    """Falcon's error handlers: everything that is raised leaves through here.

    Args:
        log: Gets the traceback of what is our own fault.
        debug: Show the exception in ``detail``.
    """

    def __init__(self, log: Logger, *, debug: bool) -> None:
        self._log = log
        self._debug = debug

    def install(self, app: falcon.App[Request, FalconResponse]) -> None:
        """Register with a Falcon application."""
        app.add_error_handler(Exception, self.unexpected)
        app.add_error_handler(falcon.HTTPError, self.framework)
        app.add_error_handler(ApiError, self.api)

    def api(self, request: Request, response: FalconResponse, error: ApiError, _params: dict[str, Any]) -> None:
        """Answer with an error of our own tree."""
        respond(request, response, error)

    def framework(
        self, request: Request, response: FalconResponse, error: falcon.HTTPError, _params: dict[str, Any]
    ) -> None:
        """Answer with an error that Falcon raised: no route, wrong method, malformed header ..."""
        own: ApiError = InternalError()
        if error.status_code == http.HTTPStatus.NOT_FOUND:
            own = NotFoundError(detail=f"no route for {request.path_as_sent}")
        elif error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            own = MethodNotAllowedError(detail=f"{request.method} {request.path_as_sent}")
        elif error.status_code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            message = error.description or http.HTTPStatus(error.status_code).phrase
            own = OtherClientError(error.status_code, message, detail=error.title)
        own.headers.update(dict(error.headers or {}))
        respond(request, response, own)

    def unexpected(self, request: Request, response: FalconResponse, error: Exception, _params: dict[str, Any]) -> None:
        """Answer with a 500 that says nothing of its cause, and log everything."""
        self._log.error("request_failed", request_id=request.request_id, path=request.path, exc_info=error)
        respond(request, response, InternalError(detail=repr(error) if self._debug else None))
