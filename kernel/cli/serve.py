"""``tiercel serve``, and ``tiercel up``: serve with a worker and demo data."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import click

from kernel.app import Tiercel
from kernel.cli.worker import fork_worker, stop_worker
from kernel.config import load
from kernel.contracts import Command
from kernel.datasets.files import publish_folder, read_folder
from kernel.http.routing import APPLICATION, MountedRoute, list_pages
from kernel.jobs.supervisor import GRACE_S
from kernel.server.addresses import ensure_addresses_free
from kernel.server.launcher import Sidecar, run_gunicorn

# Next to the kernel's package, in a checkout and in a wheel.
DEMO_FOLDER = Path(__file__).parent.parent.parent / "contrib" / "demo"
_APPLICATIONS_SHOWN_MAX = 5
_DEFAULT_HOST = "127.0.0.1"


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Address to listen on.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine although no authentication is required.")
def serve(*, bind: str | None, insecure: bool) -> None:
    """Serve requests: gunicorn with config/gunicorn.conf.py, and the embedded database if none is configured."""
    run_gunicorn(_prepare_service(bind, insecure=insecure))


@click.command(hidden=True)
@click.argument("address", metavar="[[HOST:]PORT]", required=False)
@click.option("--insecure", is_flag=True, help="Listen beyond this machine although no authentication is required.")
def runserver(*, address: str | None, insecure: bool) -> None:
    """Serve requests, as `tiercel serve` does."""
    bind = f"{_DEFAULT_HOST}:{address}" if address is not None and address.isdecimal() else address
    run_gunicorn(_prepare_service(bind, insecure=insecure))


run = copy.copy(runserver)
run.name = "run"


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Address to listen on.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine although no authentication is required.")
def up(*, bind: str | None, insecure: bool) -> None:
    """Start everything: database, web, worker, and demo data if there is no data yet."""
    service = _prepare_service(bind, insecure=insecure)
    try:
        create_demo_data(service)
    except BaseException:
        service.close()
        raise
    run_gunicorn(service, _banner(service), _make_sidecar(service))


def _make_sidecar(service: Tiercel) -> Sidecar:
    grace_s = service.settings.jobs.graceful_timeout_s + GRACE_S
    service.shared.jobs.expect_worker()
    return Sidecar(
        "supervisor of jobs",
        lambda begin: fork_worker(service, begin),
        lambda pid: stop_worker(pid, grace_s),
    )


def _prepare_service(bind: str | None, *, insecure: bool) -> Tiercel:
    # Options become environment variables, because gunicorn's configuration file loads the settings again.
    if bind is not None:
        os.environ["TIERCEL_BIND"] = bind
    if insecure:
        os.environ["TIERCEL_INSECURE"] = "true"
    configuration = load()
    ensure_addresses_free(configuration.settings.server.bind)
    service = Tiercel(configuration)
    service.ensure_safe()
    service.prepare()
    service.shared.metrics.reset()
    return service


def create_demo_data(service: Tiercel) -> None:
    """Run the commands of plugins that create demo data, and publish the demo files of datasets without a version.

    Args:
        service: Prepared, but not started.
    """
    service.shared.db.open()
    try:
        for _, item in service.registry.contributions(Command):
            if item.demo is not None:
                item.command.main(list(item.demo), standalone_mode=False)
        publish_demo_files(service)
    finally:
        # The threads of the pool must not exist when gunicorn forks.
        service.shared.db.close()


def publish_demo_files(service: Tiercel) -> None:
    """Publish the demo files of datasets that have no version. The pool must be open."""
    datasets = service.shared.datasets
    empty = datasets.never_published()
    if empty and DEMO_FOLDER.is_dir():
        publish_folder(datasets, read_folder(DEMO_FOLDER, empty), source="demo")


def _banner(service: Tiercel) -> str:
    base = f"http://{service.settings.server.bind}"
    # The first page of each plugin has the others in its menu.
    pages: dict[str, tuple[str, str]] = {}
    for page in list_pages(service.shared.routes):
        if page.label is not None:
            pages.setdefault(page.owner, (page.path, page.label))
    labels = {each.route.path: each.menu for each in service.shared.routes if each.menu and not each.is_page}
    labels |= _application_views(service)
    width = max(map(len, labels), default=0)
    lines = [f"  curl -s {base}{path:<{width}}  # {label}" for path, label in labels.items()]
    links = [f"  {base}{path:<{width}}  # {owner}: {label}" for owner, (path, label) in pages.items()]
    return "\n".join(["", "Tiercel is up. Try:", *lines, "", "In a browser:", *links, "", "Stop with Ctrl-C.", ""])


def _application_views(service: Tiercel) -> dict[str, str]:
    """Return labels by path of what applications see: one route of each plugin is example enough."""
    first_routes: dict[str, MountedRoute] = {}
    for mounted in service.shared.routes:
        if mounted.is_filtered and mounted.route.menu is not None:
            first_routes.setdefault(mounted.owner, mounted)
    return {
        f"{each.template}/".replace(f"{{{APPLICATION}}}", application.slug): f"{each.route.menu}: {application.name}"
        for each in first_routes.values()
        for application in service.shared.applications.all[:_APPLICATIONS_SHOWN_MAX]
    }
