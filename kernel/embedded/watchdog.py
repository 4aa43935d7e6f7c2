"""Restart the embedded PostgreSQL if its process dies: no supervisor of the system does."""

from __future__ import annotations

import threading

from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError
from kernel.logging import Logger
from kernel.threads import BackgroundThread

_INTERVAL_S = 1.0


class EmbeddedWatchdog:
    """A background thread that restarts the server if it was killed, for lack of memory for example.

    Every process that uses the server may run one: the server's start lock lets one of them restart it.

    Args:
        server: Acquired by this process, or by the one it was forked from.
        log: Gets a warning for each restart, and for each that failed.
    """

    def __init__(self, server: EmbeddedServer, log: Logger) -> None:
        self._server = server
        self._log = log
        self._thread = BackgroundThread("embedded-watchdog", self._run)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, without waiting for a restart in progress: it may take long and does no harm."""
        self._thread.stop(timeout_s=0)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(_INTERVAL_S):
            if self._server.is_running():
                continue
            try:
                if self._server.restart_if_dead():
                    self._log.warning("embedded_server_restarted", reason="its process was gone")
            except (BootError, OSError) as ex:
                self._log.warning("embedded_server_is_gone", reason=str(ex))
