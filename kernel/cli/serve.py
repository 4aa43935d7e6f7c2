"""``tiercel up`` and ``tiercel serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from gunicorn.app.base import Application

from kernel.app import Tiercel
from kernel.cli.demo import fill_with_demo_data
from kernel.cli.worker import fork_worker, stop_worker
from kernel.config import load
from kernel.errors import BootError
from kernel.http.routing import APPLICATION, MountedRoute
from kernel.settings import Settings

_PACKAGE = Path(__file__).parent.parent
# In a checkout the file stands where operators look for it; a wheel carries a copy.
_CONFIG_FOLDERS = (Path("config"), _PACKAGE.parent / "config", _PACKAGE / "_config")
_VIEWS_SHOWN = 5


class _Gunicorn(Application):
    """gunicorn on a service that has booted already.

    Args:
        service: Prepared; it is loaded before the fork and started after it.
        banner: Printed once requests can come.
    """

    def __init__(self, service: Tiercel, banner: str = "") -> None:
        self._service = service
        self._banner = banner
        super().__init__(prog="tiercel")

    def load_config(self) -> None:
        """Read config/gunicorn.conf.py; the command line is ours, not gunicorn's."""
        found = next((path for folder in _CONFIG_FOLDERS if (path := folder / "gunicorn.conf.py").is_file()), None)
        if found is None:
            raise BootError("config/gunicorn.conf.py is missing")
        self.load_config_from_file(str(found))
        if self._banner:
            self.cfg.set("when_ready", self._print_banner)

    def load(self) -> Any:
        """Return the WSGI application."""
        return self._service

    def _print_banner(self, _server: Any) -> None:
        click.echo(self._banner)


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Where to listen.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine although nobody has to sign in.")
def serve(*, bind: str | None, insecure: bool) -> None:
    """Serve requests: gunicorn with config/gunicorn.conf.py, and the embedded database if none is configured."""
    service = _prepared(bind, insecure=insecure)
    _Gunicorn(service).run()


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Where to listen.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine although nobody has to sign in.")
def up(*, bind: str | None, insecure: bool) -> None:
    """Start everything, with demo data if there is no data yet."""
    service = _prepared(bind, insecure=insecure)
    try:
        fill_with_demo_data(service)
    except BaseException:
        service.close()
        raise
    me, worker = os.getpid(), fork_worker(service)
    try:
        _Gunicorn(service, _banner(service)).run()
    finally:
        # gunicorn's own workers leave through here as well.
        if os.getpid() == me:
            stop_worker(worker)


def _prepared(bind: str | None, *, insecure: bool) -> Tiercel:
    # Through the environment, because gunicorn's configuration file reads the same settings once more.
    if bind is not None:
        os.environ["TIERCEL_BIND"] = bind
    if insecure:
        os.environ["TIERCEL_INSECURE"] = "true"
    service = Tiercel(load())
    service.ensure_safe()
    service.prepare()
    return service


def _banner(service: Tiercel) -> str:
    settings: Settings = service.settings
    base = f"http://{settings.server.bind}"
    routes = [mounted.route for mounted in service.shared.inventory.routes]
    shown = {route.path: route.menu for route in routes if route.menu is not None} | _views(service)
    width = max(map(len, shown), default=0)
    lines = [f"  curl -s {base}{path:<{width}}  # {label}" for path, label in shown.items()]
    return "\n".join(["", "Tiercel is up. Try:", *lines, "", "Stop with Ctrl-C.", ""])


def _views(service: Tiercel) -> dict[str, str]:
    # What applications are about shows in one route of a plugin as well as in all.
    first: dict[str, MountedRoute] = {}
    for mounted in service.shared.inventory.routes:
        if mounted.is_filtered and mounted.route.menu is not None:
            first.setdefault(mounted.owner, mounted)
    return {
        f"{each.template}/".replace(f"{{{APPLICATION}}}", application.slug): f"{each.route.menu}: {application.name}"
        for each in first.values()
        for application in service.shared.applications.all[:_VIEWS_SHOWN]
    }
