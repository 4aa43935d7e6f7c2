"""The items of ``tiercel check`` for a deployment: what a service can do without on a laptop, but not in production.

``docs/operations/checks.md`` has a section for each line.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import psutil

from kernel.app import Tiercel
from kernel.cli.output import format_age
from kernel.errors import BootError
from kernel.http.auth import is_loopback
from kernel.http.pages import format_bytes
from kernel.last_backup import FILE, read_last_backup
from kernel.settings import Settings

_FREE_MIN = 0.1
# Of what the server allows, what the service may take: others need some, an administrator most of all.
_CONNECTIONS_MAX = 0.9
# For notifications: of datasets and caches, and in workers also of jobs.
_LISTENERS_WEB, _LISTENERS_JOBS = 1, 2


class Finding(msgspec.Struct, frozen=True):
    """Result of a check.

    Args:
        check: Name of the check.
        ok: Whether it passed.
        detail: What was checked, or what is wrong.
        warning: Whether it passed, but deserves attention.
    """

    check: str
    ok: bool
    detail: str
    warning: bool = False

    @property
    def mark(self) -> str:
        """The result in a word, for people."""
        if not self.ok:
            return "PROBLEM"
        return "warning" if self.warning else "ok"


def check_deployment(service: Tiercel, now: datetime) -> Iterator[Finding]:
    """Check what needs no database.

    Args:
        service: Booted.
        now: The time, UTC.
    """
    yield _check_static(service)
    yield _check_cache(service.settings)
    yield _check_throttle(service)
    yield _check_tls(service.settings)
    yield _check_monitoring(service.settings)
    yield _check_disk(service.settings.home)
    yield _check_backups(service.settings, now)


def check_capacity(service: Tiercel) -> Iterator[Finding]:
    """Check what needs the database, and the pool open."""
    if problem := _storage_problem(service):
        yield Finding("throttle", ok=True, detail=problem, warning=True)
    yield _check_connections(service)


def is_exposed(settings: Settings) -> bool:
    """Tell whether this is more than a demonstration on one's own machine."""
    return settings.auth == "required" or not is_loopback(settings.server.bind)


def _check_static(service: Tiercel) -> Finding:
    try:
        return Finding("static", ok=True, detail=f"{service.assets.read_all()} files for pages")
    except OSError as ex:
        return Finding("static", ok=False, detail=f"{ex.filename} cannot be read, pages would lack it: {ex.strerror}")


def _check_cache(settings: Settings) -> Finding:
    each_bytes = settings.datasets.cache_max_bytes + settings.http.bodies_max_bytes
    all_bytes, memory_bytes = each_bytes * settings.server.workers, psutil.virtual_memory().total
    detail = (
        f"in the memory of each process that serves, up to {format_bytes(each_bytes)} with the bodies of requests; "
        f"in all of them up to {format_bytes(all_bytes)} of {format_bytes(memory_bytes)}"
    )
    return Finding("cache", ok=True, detail=detail, warning=all_bytes > memory_bytes)


def _check_throttle(service: Tiercel) -> Finding:
    settings = service.settings
    if service.shared.throttles.is_on:
        return Finding("throttle", ok=True, detail=f"requests are limited, and counted in {_backend_name(settings)}")
    if not is_exposed(settings):
        return Finding("throttle", ok=True, detail="off: only this machine can send requests")
    detail = "off, and other machines can send as many requests as they like: set throttle.open"
    return Finding("throttle", ok=True, detail=detail, warning=True)


def _backend_name(settings: Settings) -> str:
    # Of a URL nothing but the kind: it may have a password.
    backend = settings.throttle.backend
    name = "database" if backend is None else backend.reveal().partition("://")[0]
    return {"database": "the database", "memory": "the memory of each process"}.get(name, name)


def _storage_problem(service: Tiercel) -> str | None:
    try:
        service.shared.throttles.probe()
    except BootError as ex:
        return str(ex)
    return None


def _check_tls(settings: Settings) -> Finding:
    if settings.http.trusted_proxies:
        proxies = ", ".join(settings.http.trusted_proxies)
        return Finding("tls", ok=True, detail=f"terminated by a proxy, which is trusted: {proxies}")
    if not is_exposed(settings):
        return Finding("tls", ok=True, detail="not needed: only this machine can connect")
    detail = (
        "no proxy is named in http.trusted_proxies: without one that terminates TLS, passwords and keys can be read on "
        "the way; with one, all clients share its address"
    )
    return Finding("tls", ok=True, detail=detail, warning=True)


def _check_monitoring(settings: Settings) -> Finding:
    metrics = settings.metrics
    if not metrics.enabled:
        detail = "metrics.enabled is false: nothing is measured, and no alert can tell that something is wrong"
        return Finding("monitoring", ok=True, detail=detail, warning=is_exposed(settings))
    if settings.auth == "required" and metrics.token is None and not metrics.public:
        detail = "/metrics takes a key of staff, which is looked up in the database: set metrics.token to scrape always"
        return Finding("monitoring", ok=True, detail=detail, warning=True)
    return Finding("monitoring", ok=True, detail="/metrics; rules for alerts are in contrib/prometheus")


def _check_disk(home: Path) -> Finding:
    path = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    usage = psutil.disk_usage(str(path))
    detail = f"{format_bytes(usage.free)} of {format_bytes(usage.total)} are free for {home.absolute()}"
    return Finding("disk", ok=True, detail=detail, warning=usage.free < _FREE_MIN * usage.total)


def _check_backups(settings: Settings, now: datetime) -> Finding:
    max_age_s = settings.backup.max_age_s
    try:
        last = read_last_backup(settings.home)
    except (OSError, ValueError) as ex:
        return Finding("backups", ok=True, detail=f"{settings.home / FILE} cannot be read: {ex}", warning=True)
    if last is None:
        is_missed = max_age_s is not None or is_exposed(settings)
        return Finding("backups", ok=True, detail="none was made: tiercel backup DIRECTORY", warning=is_missed)
    age = now - last.finished_at
    detail = f"the last one was complete {format_age(age)}: {last.kind} in {last.directory}"
    if max_age_s is None:
        return Finding("backups", ok=True, detail=detail)
    is_old = age > timedelta(seconds=max_age_s)
    return Finding("backups", ok=True, detail=f"{detail}; backup.max_age_s is {max_age_s}", warning=is_old)


def _check_connections(service: Tiercel) -> Finding:
    """Compare the connections that the processes of one machine may open with those that the server allows."""
    settings = service.settings
    web = settings.server.workers * (settings.db.pool_max + _LISTENERS_WEB)
    jobs = settings.jobs.processes * (settings.db.pool_max + _LISTENERS_JOBS)
    allowed = service.db.measures(settings.db.statement_timeout_s).server_connections_max
    detail = f"up to {web + jobs} of the {allowed} that the server allows: {web} to serve requests, {jobs} to run jobs"
    return Finding("connections", ok=True, detail=detail, warning=web + jobs > _CONNECTIONS_MAX * allowed)
