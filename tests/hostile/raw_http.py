"""Hand-made requests, byte by byte."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """A response.

    Args:
        status: Its status.
        headers: By name in lower case.
        content: Its body.
    """

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.content)


def exchange(address: int | Path, sent: str | bytes) -> list[Answer]:
    """Send bytes on a new connection, close the sending side, and read every response until the service closes it.

    Args:
        address: A port of this machine, or the path of a Unix socket.
        sent: The bytes, as Latin-1 if it is text.
    """
    is_port = isinstance(address, int)
    with socket.socket(socket.AF_INET if is_port else socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(("127.0.0.1", address) if is_port else str(address))
        connection.sendall(sent if isinstance(sent, bytes) else sent.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    answers = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
        length = int(headers.get("content-length", len(rest)))
        answers.append(Answer(int(line.split()[1]), headers, rest[:length]))
        received = rest[length:]
    return answers


def ask(address: int | Path, method: str, target: str, *headers: str, body: str = "") -> Answer:
    """Send one request with the given header lines, and return its response.

    ``Host`` is that of this machine unless a line sets it.
    """
    has_host = any(each.lower().startswith("host:") for each in headers)
    lines = [f"{method} {target} HTTP/1.1", *(() if has_host else ("Host: 127.0.0.1",)), *headers, "Connection: close"]
    if body or method not in ("GET", "DELETE"):
        lines.append(f"Content-Length: {len(body)}")
    [answer] = exchange(address, "\r\n".join(lines) + "\r\n\r\n" + body)
    return answer
