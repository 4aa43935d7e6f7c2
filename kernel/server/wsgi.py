"""The WSGI entry point, ``gunicorn -c config/gunicorn.conf.py``, and gunicorn's server hooks and logging."""

from __future__ import annotations

import logging
from typing import Any

from kernel.app import Tiercel
from kernel.config import load
from kernel.logging import stdlib_config
from kernel.server.client_socket import ClientLimits, SlowClientError
from kernel.settings import LogSettings


def create() -> Tiercel:
    """Boot and prepare the service in gunicorn's master, before it forks. Requires ``preload_app``."""
    service = Tiercel(load())
    service.ensure_safe()
    service.prepare()
    return service


def pre_fork(server: Any, worker: Any) -> None:
    """Tell a worker how long clients may take, and which requests are probes."""
    service: Tiercel = server.app.callable
    settings = service.settings.server
    worker.header_timeout_s = settings.header_timeout_s
    worker.client_limits = ClientLimits(
        settings.receive_timeout_s, settings.send_timeout_s, settings.client_rate_min_bytes
    )
    worker.probe_paths = frozenset(each.template.encode() for each in service.shared.routes if not each.route.logged)


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
        if record.exc_info and isinstance(record.exc_info[1], SlowClientError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args, record.exc_info = "dropped a client that stopped sending", (), None
        return True
