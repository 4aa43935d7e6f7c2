"""The middleware for ASGI applications (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any

from tiercel_client import endpoints
from tiercel_client.observing import ERROR, PROBES, Observer, TagsHook, UserHook
from tiercel_client.reporter import Reporter

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
# nginx writes it for a client that has gone before there was an answer.
CLIENT_CLOSED = 499
# Messages that are a whole body; others of a body say whether more follow.
_WHOLE_BODIES = ("http.response.pathsend", "http.response.zerocopysend")


class TiercelASGI:
    """Reports the requests of an ASGI application, each once its body is sent: ``app = TiercelASGI(app)``.

    What the application answers or raises passes through unchanged, and so do WebSockets. A request that raises is
    reported as 500, one whose client has gone before the answer as 499. Nothing in it waits for the network or a disk;
    at the end of the lifespan a thread sends what is left.

    Args:
        app: The application.
        url: Of the service; as all settings, from a variable ``TIERCEL_CLIENT_...`` if it is not given.
        key: An API key that may send events.
        service: The name under which requests are reported.
        reporter: In place of settings: a reporter that several middlewares share.
        user: Called with the scope after the response; returns whom to name as its user.
        tags: Called with the scope after the response; returns further facts.
        ignore: Paths that are not reported.
        options: Further settings; see ``Settings``.

    Raises:
        ValueError: A setting is wrong.
    """

    def __init__(
        self,
        app: ASGIApplication,
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
        self._observer.ensure_no_wait()
        self.app = app
        self.reporter = self._observer.reporter
        endpoints.install(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._flush_at_shutdown(send))
        elif scope["type"] != "http" or self._observer.ignores(scope["path"]):
            await self.app(scope, receive, send)
        else:
            await self._observe(scope, receive, send)

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> None:
        observer = self._observer
        observation = observer.begin(_header(scope["headers"], b"traceparent"))
        # An application may change them.
        path, method = scope["path"], scope["method"]

        def finish(status_code: int) -> None:
            if not observation.is_reported:
                endpoint = observer.endpoints.of_scope(scope, path, status_code)
                observation.finish(endpoint, method, status_code, scope)

        async def send_observed(message: Message) -> None:
            kind = message["type"]
            if kind == "http.response.start":
                observation.status_code = message["status"]
            await send(message)
            if kind in _WHOLE_BODIES or (kind == "http.response.body" and not message.get("more_body")):
                finish(observation.status_code)

        try:
            await self.app(scope, receive, send_observed)
        except asyncio.CancelledError:
            finish(observation.status_code or CLIENT_CLOSED)
            raise
        except BaseException:
            finish(ERROR)
            raise
        finish(observation.status_code or CLIENT_CLOSED)

    def _flush_at_shutdown(self, send: Send) -> Send:
        async def send_flushed(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                timeout_s = self.reporter.settings.exit_timeout_s
                await asyncio.get_running_loop().run_in_executor(None, self.reporter.flush, timeout_s)
            await send(message)

        return send_flushed


def _header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return None
