"""Run gunicorn on a service that is booted and prepared already, with ``config/gunicorn.conf.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from gunicorn.app.base import Application

from kernel.app import Tiercel
from kernel.config import shipped_folder
from kernel.errors import BootError

_CONFIG_FILE = "gunicorn.conf.py"


def run_gunicorn(service: Tiercel, banner: str = "") -> None:
    """Serve requests until a signal stops gunicorn. Does not return: gunicorn exits the process.

    Args:
        service: A prepared service. gunicorn's master forks workers, and each starts it.
        banner: Printed to standard output when gunicorn is listening.
    """
    _GunicornApplication(service, banner).run()


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
