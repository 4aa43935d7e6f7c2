"""The WSGI entry point, ``gunicorn -c config/gunicorn.conf.py``, and gunicorn's server hooks and logging."""

from __future__ import annotations

import logging
import socket
import struct
from typing import Any

from kernel.app import Tiercel
from kernel.config import load
from kernel.logging import stdlib_config
from kernel.settings import LogSettings


def create() -> Tiercel:
    """Boot and prepare the service in gunicorn's master, before it forks. Requires ``preload_app``."""
    service = Tiercel(load())
    service.ensure_safe()
    service.prepare()
    return service


def pre_fork(server: Any, worker: Any) -> None:
    """Set the time limits of clients: in the worker for heads of requests, on the listening sockets for bodies.

    Accepted connections inherit the limits of the listening socket. Without them, a client that sends half a body, or
    reads half a response, would block a thread forever.
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
    """Start the service in a worker process."""
    worker.wsgi.start()
    worker.on_stopping = worker.wsgi.announce_stop
    worker.on_refused = worker.wsgi.wsgi_app.log_refusal


def worker_exit(_server: Any, worker: Any) -> None:
    """Stop the service in a worker process."""
    if getattr(worker, "wsgi", None) is not None:
        worker.wsgi.stop()


def on_exit(server: Any) -> None:
    """Stop the embedded database after the last worker."""
    if server.app.callable is not None:
        server.app.callable.close()


def logging_config(settings: LogSettings) -> dict[str, Any]:
    """Return a ``logging.config`` dictionary that formats gunicorn's log lines like our own."""
    config = stdlib_config(settings)
    config["filters"] = {"slow_client": {"()": SlowClientFilter}}
    handlers = config["root"]["handlers"]
    config["loggers"]["gunicorn.error"] = {
        "level": settings.level.upper(),
        "handlers": handlers,
        "propagate": False,
        "filters": ["slow_client"],
    }
    config["loggers"]["gunicorn.access"] = {"level": "WARNING", "handlers": handlers, "propagate": False}
    return config


class SlowClientFilter(logging.Filter):
    """Log a client that stopped sending as one warning: gunicorn logs it as an error, with a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record of such a client; keep every record."""
        if record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args, record.exc_info = "dropped a client that stopped sending", (), None
        return True
