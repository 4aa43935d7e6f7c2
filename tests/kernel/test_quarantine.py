"""Quarantine: an optional plugin that fails is left out, with the reason, while the rest serves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernel.contracts import HealthCheck, Route
from kernel.services import Services
from kernel.testing import Client
from tests.conftest import Serve
from tests.kernel.fakes import Boot, CapturedLog, KeyAuthenticator, MakePlugin, raise_oops

REGISTERING = [
    "register_settings",
    "register_applications",
    "register_datasets",
    "register_routes",
    "register_jobs",
    "register_health_checks",
    "register_commands",
]
WRONG_ANSWERS = [
    ("register_routes", [5], "returned int, not Route"),
    ("register_routes", 5, "returned int, not a list"),
    ("register_jobs", ["job"], "returned str, not Job"),
    ("register_settings", {"size": 1}, "returned {'size': 1}, not a Struct"),
]


def hello() -> str:
    """Answer."""
    return "hello"


def route_of(name: str, policy: Any = "public") -> Callable[[Services], list[Route]]:
    """Return a hook that registers one route, named like its plugin."""
    return lambda services: [Route(path=f"/{name}/", handler=hello, policy=policy)]


def readiness(client: Client) -> Any:
    """Return the readiness report, without the checks that need a database."""
    return client.get("/readyz?verbose&exclude=database,startup,writes,notifications,jobs,datasets,throttle").json()


@pytest.mark.parametrize("hook", REGISTERING)
def test_a_plugin_that_fails_in_a_hook_is_quarantined_with_the_reason(
    hook: str, boot: Boot, make_plugin: MakePlugin, captured: CapturedLog
) -> None:
    hooks: dict[str, Callable[..., Any]] = {"register_routes": route_of("alpha"), hook: raise_oops}
    alpha = make_plugin("alpha", **hooks)
    beta = make_plugin("beta", register_routes=route_of("beta"))

    client = boot(alpha, beta)

    reason = f"alpha.{hook}: RuntimeError: oops"
    status = client.service.registry.statuses["alpha"]
    assert (status.state, status.reason) == ("quarantined", reason)
    assert [(e["plugin"], e["hook"], e["reason"]) for e in captured.events("plugin_quarantined")] == [
        ("alpha", hook, "RuntimeError: oops")
    ]
    assert client.get("/alpha/").status == 404
    assert client.get("/beta/").status == 200


def test_readiness_is_degraded_and_gives_the_reason(boot: Boot, make_plugin: MakePlugin) -> None:
    report = readiness(boot(make_plugin("alpha", register_routes=raise_oops), make_plugin("beta")))

    assert report["status"] == "degraded"
    (check,) = report["checks"]
    assert (check["name"], check["status"], check["detail"]) == (
        "plugins",
        "degraded",
        "alpha.register_routes: RuntimeError: oops",
    )


@pytest.mark.parametrize(("hook", "answer", "reason"), WRONG_ANSWERS)
def test_a_plugin_whose_hook_returns_the_wrong_type_is_quarantined(
    hook: str, answer: Any, reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    hooks: dict[str, Callable[..., Any]] = {
        hook: (lambda: answer) if hook == "register_settings" else (lambda services: answer)
    }

    status = boot(make_plugin("alpha", **hooks)).service.registry.statuses["alpha"]

    assert status.reason == f"alpha.{hook}: TypeError: {reason}"


def test_a_plugin_that_fails_to_import_is_quarantined(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_on_import.py").write_text("import no_such_module_at_all\n")
    package = tmp_path / "brokenness"
    package.mkdir()
    (package / "__init__.py").touch()
    (tmp_path / "broken_on_import.py").rename(package / "alpha.py")
    monkeypatch.syspath_prepend(tmp_path)

    status = boot("brokenness.alpha").service.registry.statuses["alpha"]

    assert status.reason == "alpha.import: ModuleNotFoundError: No module named 'no_such_module_at_all'"
    assert "brokenness.alpha" not in sys.modules


def test_a_quarantined_plugin_loses_what_it_registered_before(boot: Boot, make_plugin: MakePlugin) -> None:
    def register_routes(services: Services) -> list[Route]:
        services.authenticate_with(KeyAuthenticator({}))
        return route_of("alpha")(services)

    check = HealthCheck(name="disk", probe=raise_oops)
    alpha = make_plugin(
        "alpha",
        register_routes=register_routes,
        register_health_checks=lambda services: [check],
        register_commands=raise_oops,
    )

    client = boot(alpha, make_plugin("beta", register_routes=route_of("beta", "read")), auth="required")

    assert [owner for owner, _ in client.service.registry.contributions(Route)] == ["beta"]
    assert "disk" not in client.service.shared.health.names
    assert client.get("/beta/").status == 401


def test_later_hooks_of_a_quarantined_plugin_are_not_called(boot: Boot, make_plugin: MakePlugin) -> None:
    called: list[str] = []
    alpha = make_plugin(
        "alpha",
        register_routes=raise_oops,
        register_jobs=lambda services: called.append("register_jobs"),
        startup=lambda services: called.append("startup"),
        shutdown=lambda services: called.append("shutdown"),
    )
    service = boot(alpha).service

    service.registry.start()
    service.registry.stop()

    assert not called


def test_the_routes_of_a_plugin_that_fails_to_start_answer_503_with_the_reason(
    boot: Boot, make_plugin: MakePlugin
) -> None:
    alpha = make_plugin("alpha", register_routes=route_of("alpha"), startup=raise_oops)
    client = boot(alpha, make_plugin("beta", register_routes=route_of("beta")))

    client.service.registry.start()

    answer = client.get("/alpha/")
    assert answer.status == 503
    assert (answer.json()["code"], answer.json()["detail"]) == ("unavailable", "alpha.startup: RuntimeError: oops")
    assert "retry-after" in answer.headers
    assert client.get("/beta/").status == 200


def test_the_health_checks_of_a_plugin_that_fails_to_start_are_removed(boot: Boot, make_plugin: MakePlugin) -> None:
    check = HealthCheck(name="disk", probe=raise_oops)
    alpha = make_plugin("alpha", register_health_checks=lambda services: [check], startup=raise_oops)
    client = boot(alpha)

    client.service.registry.start()

    assert readiness(client)["status"] == "degraded"
    assert [check["name"] for check in readiness(client)["checks"]] == ["plugins"]


def test_a_plugin_that_failed_to_start_is_not_shut_down(boot: Boot, make_plugin: MakePlugin) -> None:
    called: list[str] = []
    alpha = make_plugin("alpha", startup=raise_oops, shutdown=lambda services: called.append("alpha"))
    service = boot(alpha).service

    service.registry.start()
    service.registry.stop()

    assert not called


def test_a_service_starts_without_the_plugin_that_fails_to_start(serve: Serve, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", startup=raise_oops, register_routes=route_of("alpha"))

    client = serve(plugins=["system", alpha])

    assert client.get("/readyz").status == 200
    assert client.get("/readyz").json()["status"] == "degraded"
    assert client.get("/alpha/").status == 503


def test_a_plugin_whose_handler_does_not_fit_its_route_is_quarantined(boot: Boot, make_plugin: MakePlugin) -> None:
    misfit = make_plugin(
        "misfit", register_routes=lambda services: [Route(path="/x/{name}/", handler=hello, policy="public")]
    )

    client = boot(misfit, make_plugin("alpha", register_routes=route_of("alpha")))

    assert client.get("/alpha/").status == 200
    assert client.get("/x/1/").status == 404
    assert "hello does not take 'name', which the path has" in str(readiness(client))
