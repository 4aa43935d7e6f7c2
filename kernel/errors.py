"""One tree of errors: those that stop the boot, and those that are answered to clients.

The first line of an API error's docstring is its default message.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from http import HTTPStatus

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
    """The request could not be served.

    Args:
        message: For people; the first line of the class's docstring by default.
        detail: Technical detail for developers of the client. Never a secret.
        errors: Messages by field, if fields of the request are wrong.
        headers: Response headers of this error.
        extra: Further members of the body, such as ``available_apps``.
    """

    status: int = 500
    code: str = "error"

    def __init__(
        self,
        message: str | None = None,
        *,
        detail: str | None = None,
        errors: FieldErrors | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "").partition("\n")[0]
        super().__init__(self.message)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


class MalformedError(ApiError):
    """The request could not be understood."""

    status = 400
    code = "malformed"


class InvalidError(ApiError):
    """Some fields of the request are wrong."""

    status = 400
    code = "invalid"


class UnauthorizedError(ApiError):
    """Authentication is needed."""

    status = 401
    code = "unauthorized"


class ForbiddenError(ApiError):
    """This is not allowed."""

    status = 403
    code = "forbidden"


class NotFoundError(ApiError):
    """There is nothing here."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(ApiError):
    """This method is not allowed here."""

    status = 405
    code = "method_not_allowed"


class ConflictError(ApiError):
    """The request conflicts with what is stored."""

    status = 409
    code = "conflict"


class TooLargeError(ApiError):
    """The request is too large."""

    status = 413
    code = "too_large"


class UnsupportedMediaError(ApiError):
    """The body is of a media type that is not understood here."""

    status = 415
    code = "unsupported_media_type"


class OtherClientError(ApiError):
    """The request could not be served.

    Args:
        status: A 4xx status without a class of its own.
        message: For people.
        detail: Technical detail.
    """

    def __init__(self, status: int, message: str, *, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.status = status
        self.code = HTTPStatus(status).name.lower()


class InternalError(ApiError):
    """The service failed. The request id finds the reason in its log."""

    status = 500
    code = "internal"


class UnavailableError(ApiError):
    """The service cannot answer at the moment. Try again.

    Args:
        detail: What is unavailable.
        retry_after_s: Seconds after which to try again; sent as ``Retry-After``.
    """

    status = 503
    code = "unavailable"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail=detail, headers={"Retry-After": str(retry_after_s)})
