"""The middleware for Django: ``MIDDLEWARE = ["tiercel_client.django.middleware", ...]``, first of all.

It knows the route of a request, which a middleware around Django's WSGI or ASGI application does not. Settings come
from variables ``TIERCEL_CLIENT_...``, or from ``TIERCEL_CLIENT``, a dict in Django's settings, with the names of the
arguments of ``tiercel_client.Tiercel``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from tiercel_client.endpoints import NO_ROUTE
from tiercel_client.observing import ERROR, PROBES, Observer

_NOT_FOUND = 404


def middleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a middleware that reports requests, each once its body is sent. Hooks are called with Django's request.

    Args:
        get_response: What answers a request.

    Raises:
        ValueError: A setting is wrong.
    """
    observer = _make_observer()

    def observe(request: Any) -> Any:
        if observer.ignores(request.path):
            return get_response(request)
        observed = _Request(observer, request)
        try:
            return observed.finish_on_close(get_response(request))
        except BaseException:
            observed.finish(ERROR)
            raise

    async def observe_async(request: Any) -> Any:
        if observer.ignores(request.path):
            return await get_response(request)
        observed = _Request(observer, request)
        try:
            return observed.finish_on_close(await get_response(request))
        except BaseException:
            observed.finish(ERROR)
            raise

    if not inspect.iscoroutinefunction(get_response):
        return observe
    observer.ensure_no_wait()
    return observe_async


# Django looks for these on the function.
middleware.sync_capable = True  # type: ignore[attr-defined]
middleware.async_capable = True  # type: ignore[attr-defined]


def _make_observer() -> Observer:
    # Whoever calls the middleware has imported them.
    options = dict(getattr(sys.modules["django.conf"].settings, "TIERCEL_CLIENT", {}))
    user, tags = options.pop("user", None), options.pop("tags", None)
    return Observer(options.pop("reporter", None), user, tags, options.pop("ignore", PROBES), options)


class _Request:
    """A request under way."""

    def __init__(self, observer: Observer, request: Any) -> None:
        self._observer = observer
        self._request = request
        self._observation = observer.begin(request.META.get("HTTP_TRACEPARENT"))

    def finish_on_close(self, response: Any) -> Any:
        """Have a response report the request when Django closes it: once it is sent, or the client has gone."""
        close = response.close

        def close_and_finish() -> None:
            try:
                close()
            finally:
                self.finish(response.status_code)

        response.close = close_and_finish
        return response

    def finish(self, status_code: int) -> None:
        """Report it."""
        endpoint = self._endpoint(status_code)
        self._observation.finish(endpoint, self._request.method, status_code, self._request)

    def _endpoint(self, status_code: int) -> str:
        match = self._request.resolver_match
        if match is not None:
            prefix: str = self._request.META.get("SCRIPT_NAME", "")
            # Of ``re_path``, a regular expression.
            return f"{prefix}/{match.route.lstrip('^').rstrip('$')}"
        if status_code == _NOT_FOUND:
            return NO_ROUTE
        return self._observer.endpoints.of_path(self._request.path, status_code)
