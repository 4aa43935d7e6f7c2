"""The WSGI entry point, ``gunicorn -c config/gunicorn.conf.py``, and gunicorn's server hooks and logging."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

from gunicorn.errors import HaltServer

from kernel.app import Tiercel
from kernel.config import load
from kernel.errors import BootError
from kernel.http.auth import ensure_safe_sockets
from kernel.logging import stdlib_config
from kernel.metrics import Reading
from kernel.server.addresses import ensure_addresses_free
from kernel.server.client_socket import ClientLimits, SlowClientError
from kernel.server.descriptors import raise_descriptor_limit
from kernel.server.thread_pool import PoolLoad
from kernel.settings import LogSettings

_WORKER_CLASS = "kernel.server.worker.TiercelWorker"
# Each worker would open sockets of its own; PROXY and uwsgi, HTTP/2, and names with underscores carry the same headers
# in other ways.
_FIXED = {
    "reuse_port": False,
    "protocol": "http",
    "proxy_protocol": "off",
    "http_protocols": ["h1"],
    "header_map": "drop",
}


def create() -> Tiercel:
    """Boot and prepare the service in gunicorn's master, before it forks. Requires ``preload_app``."""
    try:
        configuration = load()
        ensure_addresses_free(configuration.settings.server.bind)
        service = Tiercel(configuration)
        service.ensure_safe()
        service.prepare()
        service.shared.metrics.reset()
    except BootError as ex:
        # gunicorn would print a traceback.
        sys.exit(f"tiercel: {ex}")
    return service


def on_starting(server: Any) -> None:
    """Let the processes have as many descriptors as they need, and share what was loaded."""
    service: Tiercel = server.app.callable
    if problem := raise_descriptor_limit(service.settings):
        service.log.warning("too_few_file_descriptors", reason=problem)
    service.before_fork()


def pre_fork(server: Any, worker: Any) -> None:
    """Check what gunicorn listens on, and tell a worker how long clients may take, and which requests are probes.

    Raises:
        HaltServer: Mode ``open`` on an address beyond this machine, whatever opened the socket; or a way for clients to
            say who they are that ``http.trusted_proxies`` knows nothing of.
    """
    service: Tiercel = server.app.callable
    try:
        ensure_supported(server.cfg)
        ensure_safe_sockets(service.settings, server.LISTENERS)
    except BootError as ex:
        raise HaltServer(str(ex), 1) from ex
    settings = service.settings.server
    worker.header_timeout_s = settings.header_timeout_s
    worker.client_limits = ClientLimits(
        settings.receive_timeout_s, settings.send_timeout_s, settings.client_rate_min_bytes
    )
    worker.rejected_headers = service.response_headers.of_rejected
    # Who is not authenticated waits for no database.
    worker.probe_paths = frozenset(
        each.template.encode()
        for each in service.shared.routes
        if not each.route.logged and each.route.policy == "public"
    )


def ensure_supported(cfg: Any) -> None:
    """Ensure that options of gunicorn, which override its configuration file, leave in place what requests rely on.

    Raises:
        BootError: They do not.
    """
    wrong = [
        f"{name} is {given}, not {value}" for name, value in _FIXED.items() if (given := getattr(cfg, name)) != value
    ]
    if cfg.worker_class_str != _WORKER_CLASS:
        wrong.append(f"the worker is {cfg.worker_class_str}, not {_WORKER_CLASS}")
    if wrong:
        raise BootError(f"gunicorn's options are not supported: {'; '.join(wrong)}")


def post_worker_init(worker: Any) -> None:
    """Start the service in a worker process."""
    worker.wsgi.start()
    worker.on_stopping = worker.wsgi.announce_stop
    worker.on_rejected = worker.wsgi.wsgi_app.log_rejected
    worker.wsgi.shared.metrics.read_in_process("tiercel_http_", lambda: _read_threads(worker.tpool.load()))


def _read_threads(load: PoolLoad) -> Iterator[Reading]:
    yield Reading("threads_active", "Requests that a thread is working on.", load.active)
    yield Reading("requests_queued", "Requests that wait for a thread.", load.waiting)
    yield Reading("threads_max", "The most requests that threads work on.", load.active_max)


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
