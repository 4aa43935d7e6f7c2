"""Pages about the service itself: its statistics, its health and its plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from kernel import PluginStatus, Response, Services, route
from kernel.http import CheckResult, Panel, TemplateResponse, worst_status
from plugins.system.stats import CpuMeter, read_application, read_cpu, read_disk, read_engine, read_memory, read_process

_STATS_REFRESH_S = 30
_HEALTH_REFRESH_S = 10
_NO_STORE = {"Cache-Control": "no-store"}
# What the table of plugins counts; the rest is in the list of hooks.
COUNTED = ("routes", "jobs", "datasets", "commands")


class SystemPages:
    """The handlers of the pages.

    Args:
        services: What the pages are about.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._cpu_meter = CpuMeter()

    @route("/system/stats/", policy="staff", menu="Statistics")
    def stats(self) -> TemplateResponse:
        """Show figures of machine, process, service, database and jobs."""
        services = self._services
        parts = {
            "machine": ("Machine", self._machine),
            "process": ("Process", lambda: {"process": read_process(services.clock.now())}),
            "service": ("Service", self._service),
            "database": ("Database", self._database),
            "jobs": ("Jobs", lambda: {"figures": services.jobs.figures()}),
            "caches": ("Caches", lambda: {"caches": services.cache.stats()}),
            "counters": ("Counters of plugins", lambda: {"figures": services.statistics()}),
        }
        panels = {
            name: Panel(load, f"system/stats_{name}.html", title, refresh_s=_STATS_REFRESH_S)
            for name, (title, load) in parts.items()
        }
        return TemplateResponse("system/stats.html", {"names": tuple(panels)}, panels=panels)

    @route("/system/health/", policy="public", menu="Health")
    def health(self) -> Response[TemplateResponse]:
        """Show the result of every health check, as ``/readyz?verbose`` does; also while the database is away."""
        checks = Panel(self._checks, "system/health_checks.html", "Checks", refresh_s=_HEALTH_REFRESH_S)
        page = TemplateResponse("system/health.html", panels={"checks": checks})
        return Response(page, headers=_NO_STORE)

    @route("/system/plugins/", policy="staff", menu="Plugins")
    def plugins(self) -> TemplateResponse:
        """Show every plugin with its state, its hooks, and how much it contributes."""
        plugins = self._services.plugins
        context = {
            "plugins": plugins,
            "counted": COUNTED,
            "states": _count_states(plugins),
            "version": version("tiercel"),
        }
        return TemplateResponse("system/plugins.html", context)

    def _machine(self) -> Mapping[str, Any]:
        return {
            "cpu": read_cpu(self._cpu_meter),
            "memory": read_memory(),
            "disk": read_disk(self._services.kernel_settings.home),
            "now": self._services.clock.now(),
        }

    def _database(self) -> Mapping[str, Any]:
        db = self._services.db
        return {"engine": read_engine(db), "pool": db.stats()}

    def _service(self) -> Mapping[str, Any]:
        return {"application": read_application(self._services)}

    def _checks(self) -> Mapping[str, Any]:
        return {**summarize_health(self._services.health.run()), "now": self._services.clock.now()}


def summarize_health(results: Sequence[CheckResult]) -> Mapping[str, Any]:
    """Return what templates say of the results of health checks: the worst state, and those that are not ok first."""
    order = ("failed", "degraded", "ok")
    return {
        "status": worst_status(results),
        "checks": sorted(results, key=lambda each: order.index(each.status)),
        "problems": [each for each in results if each.status != "ok"],
    }


def _count_states(plugins: Sequence[PluginStatus]) -> Mapping[str, int]:
    states = [each.state for each in plugins]
    return {state: states.count(state) for state in ("quarantined", "loaded", "disabled") if state in states}
