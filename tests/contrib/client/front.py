"""An HTTP server in front of a service in this process, which answers some requests itself, as a proxy does."""

from __future__ import annotations

import gzip
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kernel.testing import Client


@dataclass(frozen=True)
class Answer:
    """What is answered in place of the service.

    Args:
        status: HTTP status; 0 closes the connection without an answer.
        headers: Of the answer.
        content: Its body.
        is_passed_on: Whether the service gets the request all the same, and its answer is lost.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b"{}"
    is_passed_on: bool = False


@dataclass(frozen=True)
class Received:
    """A request that came in."""

    headers: Mapping[str, str]
    content: bytes

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]

    @property
    def events(self) -> list[dict[str, Any]]:
        is_gzip = self.headers.get("Content-Encoding") == "gzip"
        found: list[dict[str, Any]] = json.loads(gzip.decompress(self.content) if is_gzip else self.content)
        return found


class Front:
    """The server: ``answers`` come first, one each, then ``always`` or what ``judge`` says, then the service.

    Args:
        client: Of the service; None if all answers are given.
    """

    def __init__(self, client: Client | None) -> None:
        self.client = client
        self.answers: deque[Answer] = deque()
        self.always: Answer | None = None
        self.judge: Callable[[Received], Answer | None] = lambda received: None
        self.received: list[Received] = []
        self.connections = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[Front]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def answer(self, path: str, received: Received) -> Answer:
        """Return what a request is answered with."""
        self.received.append(received)
        given = self.answers.popleft() if self.answers else self.always or self.judge(received)
        if given is not None and not given.is_passed_on:
            return given
        assert self.client is not None
        result = self.client.request("POST", path, content=received.content, headers=received.headers)
        return given or Answer(result.status, {"Content-Type": "application/json"}, result.content)

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10
            # Head and body of an answer go out together.
            wbufsize = -1

            def setup(self) -> None:
                super().setup()
                front.connections += 1

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                names = ("Idempotency-Key", "Content-Encoding", "Content-Type", "Authorization", "X-Site")
                headers = {name: self.headers[name] for name in names if name in self.headers}
                answer = front.answer(self.path, Received(headers, content))
                if not answer.status:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, *_arguments: object) -> None:
                pass

        return Handler
