"""The gunicorn entry: ``gunicorn -c config/gunicorn.conf.py "kernel.server.wsgi:create()"``, and its hooks."""

from __future__ import annotations

import socket
import struct
from typing import Any

from kernel.app import Tiercel
from kernel.config import load


def create() -> Tiercel:
    """Boot the service in gunicorn's master, before it forks. Needs ``preload_app``."""
    service = Tiercel(load())
    service.ensure_safe()
    service.prepare()
    return service


def pre_fork(server: Any, worker: Any) -> None:
    """Tell a worker how long it waits for clients, and give listening sockets time limits.

    Accepted connections inherit those. Without them a client that sends half a body, or reads half an answer, holds a
    thread for ever.
    """
    settings = server.app.callable.settings.server
    worker.header_timeout_s = settings.header_timeout_s
    for listener in server.LISTENERS:
        for option, timeout_s in (
            (socket.SO_RCVTIMEO, settings.header_timeout_s),
            (socket.SO_SNDTIMEO, settings.send_timeout_s),
        ):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", timeout_s, 0))


def post_worker_init(worker: Any) -> None:
    """Start the service in a worker: pools and threads do not survive a fork."""
    worker.wsgi.start()
    worker.on_stopping = worker.wsgi.announce_stop


def worker_exit(_server: Any, worker: Any) -> None:
    """Stop the service in a worker."""
    if getattr(worker, "wsgi", None) is not None:
        worker.wsgi.stop()


def on_exit(server: Any) -> None:
    """Stop the embedded database after the last worker."""
    if server.app.callable is not None:
        server.app.callable.close()
