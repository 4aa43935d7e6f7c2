"""One tree of errors: what stops the boot, and what a client is told.

The docstring of an API error is its default message for people.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from http import HTTPStatus

FieldErrors = Mapping[str, Sequence[str]]


class TiercelError(Exception):
    """Something went wrong inside Tiercel."""


class BootError(TiercelError):
    """The service cannot start as it is configured."""


class ConfigError(BootError):
    """The configuration is wrong. One line for every wrong key.

    Args:
        problems: Each names file (or environment variable), key and expected type.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class PluginError(BootError):
    """A plugin failed in one of its hooks.

    Args:
        plugin: Name of the plugin.
        hook: The hook it failed in, or ``import``.
        reason: What happened, for people.
    """

    def __init__(self, plugin: str, hook: str, reason: str) -> None:
        super().__init__(f"{plugin}.{hook}: {reason}")
        self.plugin = plugin
        self.hook = hook
        self.reason = reason


class DuplicateError(BootError):
    """Two owners claim the same name.

    Args:
        kind: What was claimed twice: route, command, job, application, dataset, settings table ...
        name: The name both claim.
        owners: The two claimants, in order of configuration.
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
        message: For people; the docstring of the class by default.
        detail: Technical detail for whoever debugs the client. Never a secret.
        errors: Messages by field, where fields of the request are wrong.
        headers: Response headers this error needs.
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
        status: A 4xx status for which there is no class of its own.
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
        retry_after_s: Seconds after which a retry is worth while.
    """

    status = 503
    code = "unavailable"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail=detail, headers={"Retry-After": str(retry_after_s)})
