"""The exception classes of Tiercel: errors that stop the boot, and errors that are returned to clients.

Each subclass of ``ApiError`` has a status, a code and a default message. ``kernel.http.errors`` builds the responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

# Messages by field.
FieldErrors = Mapping[str, Sequence[str]]


class TiercelError(Exception):
    """Base of all errors that Tiercel raises."""


class BootError(TiercelError):
    """The service cannot start as it is configured and installed."""


class ConfigError(BootError):
    """The configuration is wrong.

    Args:
        problems: One line for every wrong key; names the file or environment variable, the key and the expected type.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class PluginError(BootError):
    """A plugin failed in one of its hooks.

    Args:
        plugin: Name of the plugin.
        hook: The hook it failed in, or ``import``.
        reason: What went wrong, for people.
    """

    def __init__(self, plugin: str, hook: str, reason: str) -> None:
        super().__init__(f"{plugin}.{hook}: {reason}")
        self.plugin = plugin
        self.hook = hook
        self.reason = reason


class DuplicateError(BootError):
    """Two owners register the same name.

    Args:
        kind: What is registered twice: route, command, job, application, dataset, settings table ...
        name: The name.
        owners: The two plugins, or one and the kernel, in the order in which they registered it.
    """

    def __init__(self, kind: str, name: str, owners: tuple[str, str]) -> None:
        first, second = owners
        super().__init__(f"{kind} {name!r} is claimed by both {first} and {second}")
        self.kind = kind
        self.name = name
        self.owners = owners


class ApiError(TiercelError):
    """Base of the errors that are returned to clients: an HTTP status, a code, and a message.

    Args:
        message: For people; the class's ``default_message`` by default.
        detail: Technical detail for developers of the client. Never a secret.
        errors: Messages by field, if fields of the request are invalid.
        headers: Response headers of this error.
        extra: Further members of the body, such as ``available_apps``.
    """

    status: int = 500
    code: str = "error"
    default_message: str = "The request could not be served."

    def __init__(
        self,
        message: str | None = None,
        *,
        detail: str | None = None,
        errors: FieldErrors | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.message = message or self.default_message
        super().__init__(self.message)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


class MalformedError(ApiError):
    """400: the body, query string or path cannot be decoded."""

    status = 400
    code = "malformed"
    default_message = "The request could not be understood."


class InvalidError(ApiError):
    """400: the request can be decoded, but fields or parameters are invalid; ``errors`` names them."""

    status = 400
    code = "invalid"
    default_message = "Some fields of the request are wrong."


class UnauthorizedError(ApiError):
    """401: the request is not authenticated."""

    status = 401
    code = "unauthorized"
    default_message = "Authentication is needed."


class ForbiddenError(ApiError):
    """403: the request is authenticated, but not permitted."""

    status = 403
    code = "forbidden"
    default_message = "This is not allowed."


class NoAccountError(ForbiddenError):
    """403: the request is authenticated, but by somebody who belongs to no account."""

    code = "no_account"
    default_message = "An account is needed."


class NoPlanError(ApiError):
    """402: the account has no plan that is in force."""

    status = 402
    code = "plan_inactive"
    default_message = "The account has no active plan."


class CrossSiteError(ApiError):
    """403: a browser sent the request for a page of another site, and it might change something."""

    status = 403
    code = "cross_site"
    default_message = "Pages of other sites may not do this."


class NotFoundError(ApiError):
    """404: no such route, application, dataset, item, job ..."""

    status = 404
    code = "not_found"
    default_message = "Not found."


class MethodNotAllowedError(ApiError):
    """405: the path has no handler for this method."""

    status = 405
    code = "method_not_allowed"
    default_message = "This method is not allowed here."


class ConflictError(ApiError):
    """409: the request conflicts with stored data, or with a job that runs."""

    status = 409
    code = "conflict"
    default_message = "The request conflicts with what is stored."


class PreconditionFailedError(ApiError):
    """412: a condition of the request, such as ``If-Match``, does not hold for what is there now."""

    status = 412
    code = "precondition_failed"
    default_message = "What is there now does not match the condition of the request."


class TooLargeError(ApiError):
    """413: the body, compressed or decompressed, is too large, or it has too many items.

    The limits are checked by ``kernel.http.request``, which states the exceeded one in ``detail``, and by ingest.
    """

    status = 413
    code = "too_large"
    default_message = "The request is too large."


class UnsupportedMediaError(ApiError):
    """415: the body has a media type or content coding that the route does not accept."""

    status = 415
    code = "unsupported_media_type"
    default_message = "The media type of the body is not supported."


class TooManyRequestsError(ApiError):
    """429: too many requests of a kind; clients may retry later.

    Args:
        detail: Of which kind.
        retry_after_s: Seconds after which to retry; sent as ``Retry-After``.
    """

    status = 429
    code = "too_many_requests"
    default_message = "Too many requests. Try again later."

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail=detail, headers={"Retry-After": str(retry_after_s)})


class ThrottledError(TooManyRequestsError):
    """429: too many requests in a scope of throttles.

    Args:
        scope: The scope.
        retry_after_s: Seconds after which to retry; sent as ``Retry-After``.
        headers: The rate, and what is left of it.
    """

    code = "throttled"

    def __init__(self, scope: str, *, retry_after_s: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"too many requests of the scope {scope}", retry_after_s=retry_after_s)
        self.headers.update(headers)


class QuotaExceededError(TooManyRequestsError):
    """429: the account has used what its plan allows a day.

    Args:
        unit: What it has used: ``requests``, ``events``, ``bytes``, ``exports``.
        limit: What the plan allows a day.
        used: What the account has used today.
        reset_s: Seconds until the next day, UTC; sent as ``Retry-After``.
        headers: The limit, and what is left of it.
    """

    code = "quota_exceeded"
    default_message = "The plan of the account allows no more today."

    def __init__(self, unit: str, *, limit: int, used: int, reset_s: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"{used} of {limit} {unit} are used", retry_after_s=reset_s)
        self.headers.update(headers)
        self.extra.update(unit=unit, limit=limit, used=used, reset_s=reset_s)


# Where the versions of Python have different names.
_STATUS_NAMES = {414: "uri_too_long", 416: "range_not_satisfiable", 422: "unprocessable_entity"}


class OtherClientError(ApiError):
    """Any other 4xx; ``code`` is the name of the status, such as ``length_required``.

    Args:
        status: A 4xx status without a class of its own.
        message: For people.
        detail: Technical detail.
    """

    def __init__(self, status: int, message: str, *, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.status = status
        self.code = _STATUS_NAMES.get(status) or HTTPStatus(status).name.lower()


class ClientGoneError(ApiError):
    """499: the client disconnected before it was answered. Only the request log sees this status, which is nginx's."""

    status = 499
    code = "client_closed_request"
    default_message = "The client disconnected before it was answered."


class InternalError(ApiError):
    """500: an unexpected exception, which is logged with the request id."""

    status = 500
    code = "internal"
    default_message = "The service failed. The request id finds the reason in its log."


class NotSupportedError(ApiError):
    """501: a method or a transfer coding that this server does not implement."""

    status = 501
    code = "not_implemented"
    default_message = "The server does not implement this."


class UnavailableError(ApiError):
    """503: something that the request needs is unavailable, such as the database. Clients may retry.

    Args:
        detail: What is unavailable.
        retry_after_s: Seconds after which to retry; sent as ``Retry-After``.
        code: A more precise code; ``kernel.db.failures`` has one for each kind of failure of the database.
    """

    status = 503
    code = "unavailable"
    default_message = "The service cannot answer at the moment. Try again."

    def __init__(self, detail: str, *, retry_after_s: int = 1, code: str = code) -> None:
        super().__init__(detail=detail, headers={"Retry-After": str(retry_after_s)})
        self.code = code


class DeadlineExceededError(UnavailableError):
    """503: the request took longer than ``http.request_timeout_s``, and was given up."""

    code = "deadline_exceeded"
    default_message = "The request took too long."

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after_s=5, code=self.code)


class OutOfMemoryError(UnavailableError):
    """503: the process had too little memory for the request. What was sent may be fine."""

    def __init__(self) -> None:
        super().__init__("the process has too little memory", retry_after_s=5)


class VersionNotSupportedError(ApiError):
    """505: the request has another major version of HTTP than 1."""

    status = 505
    code = "http_version_not_supported"
    default_message = "This version of HTTP is not supported."
