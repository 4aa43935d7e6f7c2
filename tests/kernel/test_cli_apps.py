"""``tiercel apps``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernel.contracts import Application, Route
from kernel.testing import Client
from tests.applications import PLUGINS, publish_demo
from tests.commands import RunCommand, make_runner
from tests.conftest import Serve
from tests.kernel.fakes import install_plugin
from tests.processes import serving

PATHS = 10  # four lists, four items, a matrix, an index


@pytest.fixture
def tiercel(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Run commands on the test's database."""
    run = make_runner(database, tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("TIERCEL_PLUGINS", ",".join(PLUGINS))
    return run


@pytest.fixture
def published(serve: Serve) -> Client:
    """A service with the demo data."""
    client = serve(plugins=PLUGINS)
    publish_demo(client)
    return client


def outcomes(ran: Any) -> dict[str, Any]:
    """Return the outcome of each path."""
    return {each["path"]: each for each in ran.json()}


@pytest.mark.parametrize("command", ["apps", "list_apps"])
def test_applications_are_listed_with_features_filters_and_counts(
    tiercel: RunCommand, published: Client, command: str
) -> None:
    ran = tiercel(command)

    (line,) = [line for line in ran.output.splitlines() if line.startswith("skyflow ")]
    assert ran.code == 0
    assert "flow, clout, kudos" in line
    assert "features, tiers, hero-metrics (of no dataset), most-present (of no dataset)" in line
    assert "features 7, gateways 4, tiers 3, tags 4" in line


@pytest.mark.parametrize("command", ["apps", "list_apps"])
def test_the_list_as_json_is_that_of_the_service(tiercel: RunCommand, published: Client, command: str) -> None:
    assert tiercel(command, "--json").json() == published.get("/api/v1/applications/").json()["data"]["results"]


def test_the_list_says_what_was_not_published(tiercel: RunCommand) -> None:
    ran = tiercel("apps")

    assert ran.code == 0
    assert "tiers ?" in ran.output
    assert "nexus: the dataset 'tiers' has not been published yet" in ran.output


@pytest.mark.parametrize("command", [("apps", "test"), ("test_multi_app",)])
def test_every_endpoint_of_every_application_is_requested(
    tiercel: RunCommand, published: Client, command: tuple[str, ...]
) -> None:
    ran = tiercel(*command, "--json")

    found = outcomes(ran)
    assert ran.code == 0
    # For everybody, as each of two applications, and as one that is not there.
    assert len(found) == PATHS * 4
    assert {each["result"] for each in found.values()} == {"passed"}
    assert found["/trace/public/skyflow/tiers/"]["items"] == 3
    assert found["/trace/public/no-such-application/tiers/"]["status"] == 404
    assert "/trace/public/skyflow/tiers/free/" in found


def test_outcomes_are_printed_as_a_table(tiercel: RunCommand, published: Client) -> None:
    ran = tiercel("apps", "test")

    assert ["skyflow", "/trace/public/skyflow/tiers/", "200", "3", "passed"] in map(str.split, ran.output.splitlines())
    assert ran.output.splitlines()[-1] == f"{PATHS * 4} passed, 0 failed, 0 skipped"


def test_endpoints_without_data_fail(tiercel: RunCommand) -> None:
    ran = tiercel("apps", "test", "--json")

    found = outcomes(ran)
    assert ran.code == 1
    assert (found["/trace/public/tiers/"]["result"], found["/trace/public/tiers/"]["status"]) == ("failed", 503)
    assert "has not been published yet" in found["/trace/public/tiers/"]["reason"]
    assert found["/trace/public/tiers/{slug}/"]["result"] == "skipped"


def test_a_filter_that_raises_fails_its_application_only(
    tiercel: RunCommand, published: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Application(slug="acme", name="Acme", filters={"tier": lambda items: [1 / 0]})
    acme = install_plugin(monkeypatch, "acme", {"register_applications": lambda: [made]})

    ran = tiercel("apps", "test", "--json", TIERCEL_PLUGINS=f"system,trace,skyflow,{acme}")

    failed = [path for path, each in outcomes(ran).items() if each["result"] == "failed"]
    assert (ran.code, failed) == (1, ["/trace/public/acme/tiers/", "/trace/public/acme/matrix/"])


def answer(**changes: Any) -> Callable[..., Any]:
    """Make a handler that answers as documented, save for some members."""

    def handler(application: Application | None) -> dict[str, Any]:
        slug = application.slug if application is not None else "default"
        path = f"/lab/public/{'' if application is None else slug + '/'}things/"
        meta = {"application": slug, "endpoint": path, "total_items": 1}
        body: dict[str, Any] = {"data": [{"slug": "one"}], "meta": {**meta, **changes.get("meta", {})}}
        return {**body, **{name: value for name, value in changes.items() if name != "meta"}}

    return handler


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"meta": {"application": "skyflow"}}, "meta.application is 'skyflow', not 'default'"),
        ({"meta": {"endpoint": "/elsewhere/"}}, "meta.endpoint is '/elsewhere/', not '/lab/public/things/'"),
        ({"meta": {"total_items": 2}}, "meta.total_items is 2, not 1"),
        ({"meta": {"total_items": 2, "pages": 2}}, None),
        ({"data": None}, "no data, or no meta"),
    ],
)
def test_a_response_that_violates_the_contract_fails_with_the_reason(
    tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str | None
) -> None:
    route = Route(path="/lab/public/things/", handler=answer(**changes), policy="public", per_application=True)
    lab = install_plugin(monkeypatch, "lab", {"register_routes": lambda: [route]})

    ran = tiercel("apps", "test", "--json", TIERCEL_PLUGINS=f"system,{lab}")

    found = outcomes(ran)["/lab/public/things/"]
    assert (ran.code, found["reason"]) == (0 if reason is None else 1, reason)


@pytest.mark.process
def test_a_running_service_can_be_tested(tiercel: RunCommand, database: str, tmp_path: Path, published: Client) -> None:
    home = tmp_path / "running" / ".tiercel"
    with serving(home, TIERCEL_DATABASE_URL=database, TIERCEL_PLUGINS=",".join(PLUGINS)) as service:
        ran = tiercel("apps", "test", "--url", service.url)

    assert (ran.code, ran.errors) == (0, "")
    assert ran.output.splitlines()[-1] == f"{PATHS * 4} passed, 0 failed, 0 skipped"


def test_a_service_that_does_not_run_fails_the_test(tiercel: RunCommand) -> None:
    ran = tiercel("apps", "test", "--url", "http://127.0.0.1:1", "--json")

    assert ran.code == 1
    assert {each["result"] for each in outcomes(ran).values()} == {"failed", "skipped"}
