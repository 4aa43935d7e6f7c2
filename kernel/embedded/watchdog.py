"""Bring the embedded server back when it died: nobody else looks after it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kernel.embedded.server import EmbeddedServer
from kernel.errors import BootError

_INTERVAL_S = 1.0


class EmbeddedWatch:
    """Starts a server anew that was killed, for lack of memory say, while this process uses it.

    Every process of a service may watch: the lock on starting lets one of them act.

    Args:
        server: Acquired by this process or the one it was forked from.
        warn: Takes a line of the log, and ``reason``.
    """

    def __init__(self, server: EmbeddedServer, warn: Callable[..., None]) -> None:
        self._server = server
        self._warn = warn
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start watching. After the fork: threads do not survive one."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="embedded-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. Does not wait for a start that is under way: it may take long and harms nobody."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            if self._server.is_running():
                continue
            try:
                if self._server.revive():
                    self._warn("embedded_server_restarted", reason="its process was gone")
            except (BootError, OSError) as ex:
                self._warn("embedded_server_is_gone", reason=str(ex))
