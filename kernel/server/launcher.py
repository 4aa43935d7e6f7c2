"""Run gunicorn on a service that is booted and prepared already, with ``config/gunicorn.conf.py``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter

from kernel.app import Tiercel
from kernel.config import shipped_folder
from kernel.errors import BootError

_CONFIG_FILE = "gunicorn.conf.py"
# How soon a sidecar that ended is started again: later each time that it did not last.
_RESTART_WAIT_S = 1.0
_RESTART_WAIT_MAX_S = 30.0
_LASTED_S = 60.0


class Sidecar:
    """A process next to the workers, which gunicorn's master starts, starts again if it ends, and stops in the end.

    Args:
        name: For the log.
        fork: Forks the process from this one, and returns its pid. The process calls the argument first.
        stop: Stops it, and waits for its end.
    """

    def __init__(self, name: str, fork: Callable[[Callable[[], None]], int], stop: Callable[[int], None]) -> None:
        self._name = name
        self._fork = fork
        self._stop = stop
        self._pid: int | None = None
        self._started_at = 0.0
        self._wait_s = _RESTART_WAIT_S
        self._restart_at: float | None = None

    def ensure_running(self, log: Any, begin: Callable[[], None]) -> None:
        """Start the process unless it runs, and not too often.

        Args:
            log: gunicorn's; gets an error if the process ended.
            begin: What the process does first.
        """
        now = time.monotonic()
        if self._pid is not None and not _has_ended(self._pid):
            return
        if self._pid is not None:
            self._wait_s = _RESTART_WAIT_S if now - self._started_at >= _LASTED_S else self._wait_s
            log.error("The %s (pid:%s) ended; starting another in %g s", self._name, self._pid, self._wait_s)
            self._pid, self._restart_at = None, now + self._wait_s
            self._wait_s = min(self._wait_s * 2, _RESTART_WAIT_MAX_S)
        if self._restart_at is None or now >= self._restart_at:
            self._pid, self._started_at = self._fork(begin), now

    def stop(self) -> None:
        """Stop the process."""
        if self._pid is not None:
            self._stop(self._pid)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True  # gunicorn reaps every child that ends


class _Master(Arbiter):
    """gunicorn's master, with a sidecar of its workers."""

    sidecar: Sidecar | None = None

    def manage_workers(self) -> None:
        """Replace what ended; called when a child ends, and once a second."""
        super().manage_workers()
        if self.sidecar is not None:
            self.sidecar.ensure_running(self.log, self._begin_sidecar)

    def _begin_sidecar(self) -> None:
        # It would keep the port in use, and mistake its signals for those of the master.
        for listener in self.LISTENERS:
            listener.close()
        for number in (*self.SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)


def run_gunicorn(service: Tiercel, banner: str = "", sidecar: Sidecar | None = None) -> None:
    """Serve requests until a signal stops gunicorn. Does not return: gunicorn exits the process.

    Args:
        service: A prepared service. gunicorn's master forks workers, and each starts it.
        banner: Printed to standard output when gunicorn is listening.
        sidecar: Runs as long as gunicorn does.
    """
    main_pid = os.getpid()
    master = _Master(_GunicornApplication(service, banner))
    master.sidecar = sidecar
    try:
        master.run()
    except RuntimeError as ex:
        raise BootError(str(ex)) from ex
    finally:
        # gunicorn's workers, which are forks of this process, leave through here as well.
        if sidecar is not None and os.getpid() == main_pid:
            sidecar.stop()


class _GunicornApplication(Application):
    def __init__(self, service: Tiercel, banner: str) -> None:
        self._service = service
        self._banner = banner
        super().__init__(prog="tiercel")

    def load_config(self) -> None:
        """Read the configuration file, and not gunicorn's own command-line options."""
        folders = (Path("config"), shipped_folder())
        found = next((path for folder in folders if (path := folder / _CONFIG_FILE).is_file()), None)
        if found is None:
            raise BootError(f"config/{_CONFIG_FILE} is missing")
        self.load_config_from_file(str(found))
        if self._banner:
            self.cfg.set("when_ready", self._print_banner)

    def load(self) -> Any:
        """Return the WSGI application."""
        return self._service

    def _print_banner(self, _server: Any) -> None:
        click.echo(self._banner)
