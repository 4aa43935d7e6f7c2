"""The middleware for WSGI applications (PEP 3333)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tiercel_client import endpoints
from tiercel_client.observing import ERROR, PROBES, Observation, Observer, TagsHook, UserHook
from tiercel_client.reporter import Reporter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Tiercel:
    """Reports the requests of a WSGI application, each once its body is sent: ``app = Tiercel(app)``.

    What the application answers or raises passes through unchanged. A request that raises is reported as 500.

    Args:
        app: The application.
        url: Of the service; as all settings, from a variable ``TIERCEL_CLIENT_...`` if it is not given.
        key: An API key that may send events.
        service: The name under which requests are reported.
        reporter: In place of settings: a reporter that several middlewares share.
        user: Called with the environ after the response; returns whom to name as its user.
        tags: Called with the environ after the response; returns further facts.
        ignore: Paths that are not reported.
        options: Further settings; see ``Settings``.

    Raises:
        ValueError: A setting is wrong.
    """

    def __init__(
        self,
        app: WSGIApplication,
        url: str | None = None,
        key: str | None = None,
        service: str | None = None,
        *,
        reporter: Reporter | None = None,
        user: UserHook | None = None,
        tags: TagsHook | None = None,
        ignore: Collection[str] = PROBES,
        **options: Any,
    ) -> None:
        settings = {"url": url, "key": key, "service": service, **options}
        self._observer = Observer(reporter, user, tags, ignore, settings)
        self.app = app
        self.reporter = self._observer.reporter
        endpoints.install(app)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        observer = self._observer
        if observer.ignores(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")):
            return self.app(environ, start_response)
        request = _Request(observer, environ)

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            with suppress(ValueError):
                request.observation.status_code = int(status[:3])
            endpoints.keep_flask_endpoint(environ)
            return start_response(status, headers, *exc_info)

        try:
            body = self.app(environ, start)
        except BaseException:
            request.finish(ERROR)
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(body, wrapper) and _finish_on_close(body, request):
            # The server sends such a body by sendfile, as long as it is not wrapped.
            return body
        return _SizedBody(body, request) if isinstance(body, (list, tuple)) else _Body(body, request)


class _Request:
    """A request, and what reports it."""

    __slots__ = ("_environ", "_method", "_observer", "observation")

    def __init__(self, observer: Observer, environ: WSGIEnvironment) -> None:
        self._observer = observer
        self._environ = environ
        # An application may change it, as for methods in a form.
        self._method: str = environ.get("REQUEST_METHOD", "")
        self.observation: Observation = observer.begin(environ.get("HTTP_TRACEPARENT"))

    def finish(self, status_code: int | None = None) -> None:
        """Report it, with the status that the application has set by default."""
        if not self.observation.is_reported:
            status_code = status_code or self.observation.status_code or ERROR
            endpoint = self._observer.endpoints.of_environ(self._environ, status_code)
            self.observation.finish(endpoint, self._method, status_code, self._environ)


class _Body:
    """A body that reports its request when the server closes it."""

    def __init__(self, body: Iterable[bytes], request: _Request) -> None:
        self._body = body
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except Exception:
            self._request.finish(ERROR)
            raise

    def close(self) -> None:
        """Close the application's body, whether it was read to its end or the client has gone."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except Exception:
            self._request.finish(ERROR)
            raise
        self._request.finish()


class _SizedBody(_Body):
    """Servers derive ``Content-Length`` from the length of a list of one."""

    _body: Collection[bytes]

    def __len__(self) -> int:
        return len(self._body)


def _finish_on_close(body: Any, request: _Request) -> bool:
    """Have a body report its request when it is closed; return whether it can."""
    close = getattr(body, "close", None)

    def close_and_finish() -> None:
        try:
            if close is not None:
                close()
        finally:
            request.finish()

    try:
        body.close = close_and_finish
    except AttributeError:  # an object of C
        return False
    return True
