"""Health checks, run in parallel and each with a timeout, and the probe endpoints that report them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from kernel.contracts import HealthCheck, Probe, Route, collect_routes, route
from kernel.errors import DuplicateError
from kernel.http.response import Response
from kernel.threads import SharedCall

KERNEL = "kernel"
State = Literal["ok", "degraded", "failed"]


class CheckResult(msgspec.Struct, frozen=True):
    """The result of one check.

    Args:
        name: Name of the check, as in ``?exclude=``.
        status: ``ok``, ``degraded`` (it failed, but is not critical) or ``failed``.
        duration_ms: How long it took, or for how long it has been hanging.
        detail: What the probe returned, or why it failed.
        since: When this process first found it in this state, without another one since, UTC.
    """

    name: str
    status: State
    duration_ms: float
    detail: str | None = None
    since: datetime | None = None


class HealthReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a probe endpoint.

    Args:
        status: The worst status of all checks.
        checks: With ``?verbose`` all results, else those that are not ok.
        excluded: Checks that were excluded by ``?exclude=``.
        unknown: Names in ``?exclude=`` that no check has.
    """

    status: State
    checks: tuple[CheckResult, ...] = ()
    excluded: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class HealthQuery(msgspec.Struct, frozen=True):
    """Query parameters of a probe endpoint.

    Args:
        verbose: Show every check.
        exclude: Names of checks that are not run.
    """

    verbose: bool = False
    exclude: tuple[str, ...] = ()


class _Runner:
    """Runs one check, in a thread that may hang beyond the timeout."""

    def __init__(
        self, owner: str, check: HealthCheck, probe: Probe, timeout_s: float, now: Callable[[], datetime]
    ) -> None:
        self.owner = owner
        self.check = check
        self.timeout_s = check.timeout_s or timeout_s
        self._now = now
        self._state: tuple[State, datetime] | None = None
        self._call = SharedCall(f"health-{check.name}", probe)

    def start(self) -> None:
        self._call.start()

    def result(self) -> CheckResult:
        found = self._result()
        if self._state is None or self._state[0] != found.status:
            self._state = (found.status, self._now())
        return msgspec.structs.replace(found, since=self._state[1])

    def _result(self) -> CheckResult:
        failed: State = "failed" if self.check.critical else "degraded"
        if not self._call.is_over(self.timeout_s):
            reason = f"no answer within {self.timeout_s:g} s"
            return CheckResult(self.check.name, failed, round(self._call.took_s * 1000, 1), reason)
        error = self._call.error
        duration_ms = round(self._call.took_s * 1000, 1)
        if error is None:
            return CheckResult(self.check.name, "ok", duration_ms, self._call.wait(0))
        reason = str(getattr(error, "detail", None) or error) or type(error).__name__
        return CheckResult(self.check.name, failed, duration_ms, reason)


class Health:
    """The health checks of one process.

    Args:
        timeout_s: For checks that have no timeout of their own.
        now: The clock.
    """

    def __init__(self, timeout_s: float, now: Callable[[], datetime]) -> None:
        self._timeout_s = timeout_s
        self._now = now
        self._checks: dict[str, _Runner] = {}

    def add(self, name: str, probe: Probe, *, critical: bool = True, timeout_s: float | None = None) -> None:
        """Add a check of the kernel."""
        self.install(KERNEL, HealthCheck(name=name, probe=probe, critical=critical, timeout_s=timeout_s))

    def install(self, owner: str, check: HealthCheck) -> None:
        """Add a check of a plugin, if it has a probe.

        Raises:
            DuplicateError: There is another check of that name; names both owners.
        """
        if check.name in self._checks:
            raise DuplicateError("health check", check.name, (self._checks[check.name].owner, owner))
        if check.probe is not None:
            self._checks[check.name] = _Runner(owner, check, check.probe, self._timeout_s, self._now)

    def uninstall(self, owner: str) -> None:
        """Remove the checks of a plugin."""
        self._checks = {name: runner for name, runner in self._checks.items() if runner.owner != owner}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all checks."""
        return tuple(self._checks)

    def run(self, exclude: Collection[str] = (), only: Collection[str] | None = None) -> tuple[CheckResult, ...]:
        """Run checks in parallel. Takes no longer than the longest timeout.

        Args:
            exclude: Names of checks that are not run.
            only: Names of the checks that are run; None for all.
        """
        runners = [
            runner for name, runner in self._checks.items() if name not in exclude and (only is None or name in only)
        ]
        for runner in runners:
            runner.start()
        return tuple(runner.result() for runner in runners)


def worst_status(results: Sequence[CheckResult]) -> State:
    """Return the worst status of some results; ok if there are none."""
    states = {result.status for result in results}
    return "failed" if "failed" in states else "degraded" if "degraded" in states else "ok"


_RESPONSES = {200: HealthReport, 503: HealthReport}


class HealthRoutes:
    """The probe endpoints for orchestrators, with the names that Kubernetes gave them.

    Args:
        health: The checks of this process.
        startup: Names of the checks that ``/startupz`` runs; ``/readyz`` runs all, ``/livez`` none.
    """

    def __init__(self, health: Health, startup: Collection[str]) -> None:
        self._health = health
        self._startup = startup

    def routes(self) -> Sequence[Route]:
        """Return the routes. Probes are not logged."""
        return collect_routes(self.livez, self.readyz, self.startupz)

    @route("/livez", policy="public", logged=False, responses=_RESPONSES)
    def livez(self, query: HealthQuery) -> Response[HealthReport]:
        """Report that the process answers. Runs no check: a restart would not repair a database."""
        return self._report((), query)

    @route("/readyz", policy="public", logged=False, responses=_RESPONSES)
    def readyz(self, query: HealthQuery) -> Response[HealthReport]:
        """Report whether requests can be served."""
        return self._report(None, query)

    @route("/startupz", policy="public", logged=False, responses=_RESPONSES)
    def startupz(self, query: HealthQuery) -> Response[HealthReport]:
        """Report whether the service has started."""
        return self._report(self._startup, query)

    def _report(self, only: Collection[str] | None, query: HealthQuery) -> Response[HealthReport]:
        results = self._health.run(query.exclude, only)
        status = worst_status(results)
        report = HealthReport(
            status=status,
            checks=tuple(result for result in results if query.verbose or result.status != "ok"),
            excluded=tuple(name for name in query.exclude if name in self._health.names),
            unknown=tuple(name for name in query.exclude if name not in self._health.names),
        )
        return Response(report, 503 if status == "failed" else 200, {"Cache-Control": "no-store"})
