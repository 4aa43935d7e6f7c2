"""Health: run probes side by side, each with a time limit, and say which failed and why."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import msgspec

from kernel.contracts import HealthCheck, Probe, Route
from kernel.errors import DuplicateError
from kernel.http.response import Response

KERNEL = "kernel"
State = Literal["ok", "degraded", "failed"]


class CheckResult(msgspec.Struct, frozen=True):
    """How one check went.

    Args:
        name: What ``?exclude=`` takes.
        status: ``ok``, ``degraded`` (it failed, but is not critical) or ``failed``.
        duration_ms: How long it took, or for how long it has been hanging.
        detail: A word from the probe, or the reason of the failure.
    """

    name: str
    status: State
    duration_ms: float
    detail: str | None = None


class HealthReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a probe answers.

    Args:
        status: The worst of the checks.
        checks: Every check with ``?verbose``; else those that are not ok.
        excluded: Names left out on request.
        unknown: Names that were to be left out but do not exist.
    """

    status: State
    checks: tuple[CheckResult, ...] = ()
    excluded: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class HealthQuery(msgspec.Struct, frozen=True):
    """Parameters of a probe.

    Args:
        verbose: Show every check, also as a bare ``?verbose``.
        exclude: Names of checks to leave out.
    """

    verbose: Annotated[str, msgspec.Meta(pattern="^(|0|1|true|false)$")] = "false"
    exclude: tuple[str, ...] = ()


class _Running:
    """One check and the thread that may still be hanging in it."""

    def __init__(self, owner: str, check: HealthCheck, timeout_s: float) -> None:
        self.owner = owner
        self.check = check
        self.timeout_s = check.timeout_s or timeout_s
        self._done = threading.Event()
        self._done.set()
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._detail: str | None = None
        self._started = 0.0
        self._took_s = 0.0

    def start(self) -> None:
        # One thread a check at most: callers that come while it runs wait for the same run, so that a probe that
        # hangs for ever costs one thread, not one a request.
        with self._lock:
            if not self._done.is_set():
                return
            self._done.clear()
            self._started = time.monotonic()
        threading.Thread(target=self._run, name=f"health-{self.check.name}", daemon=True).start()

    def result(self) -> CheckResult:
        remaining_s = self._started + self.timeout_s - time.monotonic()
        failed: State = "failed" if self.check.critical else "degraded"
        if not self._done.wait(max(remaining_s, 0)):
            took_s = time.monotonic() - self._started
            return CheckResult(
                self.check.name, failed, round(took_s * 1000, 1), f"no answer within {self.timeout_s:g} s"
            )
        status: State = "ok" if self._failure is None else failed
        return CheckResult(self.check.name, status, round(self._took_s * 1000, 1), self._failure or self._detail)

    def _run(self) -> None:
        try:
            self._detail, self._failure = self.check.probe(), None
        except Exception as ex:
            self._failure = str(getattr(ex, "detail", None) or ex) or type(ex).__name__
        finally:
            self._took_s = time.monotonic() - self._started
            self._done.set()


class Health:
    """The checks of one process.

    Args:
        timeout_s: For checks that name none.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._checks: dict[str, _Running] = {}

    def add(self, name: str, probe: Probe, *, critical: bool = True, timeout_s: float | None = None) -> None:
        """Add a check of the kernel's own."""
        self.install(KERNEL, HealthCheck(name=name, probe=probe, critical=critical, timeout_s=timeout_s))

    def install(self, owner: str, check: HealthCheck) -> None:
        """Add a check.

        Raises:
            DuplicateError: There is one of that name; names both owners.
        """
        if check.name in self._checks:
            raise DuplicateError("health check", check.name, (self._checks[check.name].owner, owner))
        self._checks[check.name] = _Running(owner, check, self._timeout_s)

    def withdraw(self, owner: str) -> None:
        """Forget the checks of a plugin, because it is quarantined."""
        self._checks = {name: running for name, running in self._checks.items() if running.owner != owner}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all checks."""
        return tuple(self._checks)

    def run(self, exclude: Collection[str] = (), only: Collection[str] | None = None) -> tuple[CheckResult, ...]:
        """Run checks side by side. Takes as long as the longest time limit at most."""
        chosen = [
            running for name, running in self._checks.items() if name not in exclude and (only is None or name in only)
        ]
        for running in chosen:
            running.start()
        return tuple(running.result() for running in chosen)


def worst(results: Sequence[CheckResult]) -> State:
    """Return the worst status of some checks; ok of none."""
    states = {result.status for result in results}
    return "failed" if "failed" in states else "degraded" if "degraded" in states else "ok"


class Probes:
    """The routes an orchestrator asks.

    Args:
        health: The checks of this process.
        startup: Names of the checks that ``/startupz`` runs; ``/readyz`` runs all, ``/livez`` none.
    """

    def __init__(self, health: Health, startup: Collection[str]) -> None:
        self._health = health
        self._startup = startup

    def livez(self, query: HealthQuery) -> Response[HealthReport]:
        """Say that the process answers. Checks nothing else: a restart mends no database."""
        return self._report((), query)

    def readyz(self, query: HealthQuery) -> Response[HealthReport]:
        """Say whether requests can be served."""
        return self._report(None, query)

    def startupz(self, query: HealthQuery) -> Response[HealthReport]:
        """Say whether the service finished starting."""
        return self._report(self._startup, query)

    def routes(self) -> tuple[Route, ...]:
        """Return the routes; none of them is logged."""
        handlers = {"/livez": self.livez, "/readyz": self.readyz, "/startupz": self.startupz}
        return tuple(
            Route(path=path, handler=handler, policy="public", logged=False) for path, handler in handlers.items()
        )

    def _report(self, only: Collection[str] | None, query: HealthQuery) -> Response[HealthReport]:
        results = self._health.run(query.exclude, only)
        status = worst(results)
        verbose = query.verbose in {"", "1", "true"}
        report = HealthReport(
            status=status,
            checks=tuple(result for result in results if verbose or result.status != "ok"),
            excluded=tuple(name for name in query.exclude if name in self._health.names),
            unknown=tuple(name for name in query.exclude if name not in self._health.names),
        )
        return Response(report, 503 if status == "failed" else 200, {"Cache-Control": "no-store"})
