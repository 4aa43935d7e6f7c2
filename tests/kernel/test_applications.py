"""Applications: their filters, what these may do wrong, and what is refused at boot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from kernel.applications import Applications, NamedFilter
from kernel.contracts import Application, Dataset
from kernel.errors import BootError
from kernel.testing import Client
from tests.kernel.datasets.conftest import PATH, TIERS, DatasetClient, MakeClient, Tier, default_routes, make_client  # noqa: F401
from tests.kernel.fakes import Boot, MakePlugin
from tests.processes import eventually

BROKEN, WELL = "/trace/public/broken/tiers/", "/trace/public/well/tiers/"


class Thawed(msgspec.Struct):
    slug: str


def keep(items: Sequence[Any]) -> Sequence[Any]:
    """Show everything."""
    return items


def empty(items: list[Any]) -> Sequence[Any]:
    """Change what it was given."""
    items.clear()
    return items


def oops(items: Sequence[Any]) -> Sequence[Any]:
    """Fail."""
    raise RuntimeError("oops")


@pytest.mark.parametrize("key", ["tiers", "tier", "tiers_filter", "tier_filter"])
def test_every_documented_key_names_its_dataset(key: str) -> None:
    application = Application(slug="skyflow", name="Skyflow", filters={key: keep, "other": oops})
    applications = Applications()
    applications.install([("sky", application)], [TIERS])

    assert applications.filters_for(application, TIERS) == (NamedFilter(key, keep),)


def test_an_application_without_a_filter_sees_everything(make_client: MakeClient) -> None:  # noqa: F811
    client = make_client({"well": {"members": oops}})
    client.publish(Tier("a"))

    assert client.slugs(WELL) == ["a"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (oops, "RuntimeError: oops"),
        (lambda items: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda items: [1], "TypeError: tier returned int, not Tier"),
        (lambda items: "ab", "TypeError: tier returned str, not Tier"),
    ],
)
def test_a_filter_that_fails_costs_its_application_alone(
    wrong: Callable[..., Any],
    reason: str,
    make_client: MakeClient,  # noqa: F811
) -> None:
    client = make_client({"broken": {"tier": wrong}, "well": {"tier": keep}})
    client.publish(Tier("a"))

    answer = client.get(BROKEN)

    assert (answer.status, answer.json()["detail"]) == (503, f"the filter of broken for tiers failed: {reason}")
    assert [client.slugs(path) for path in (PATH, WELL)] == [["a"], ["a"]]


def test_a_filter_that_empties_its_list_takes_nothing_from_others(make_client: MakeClient) -> None:  # noqa: F811
    client = make_client({"broken": {"tier": empty}, "well": {"tier": keep}})
    client.publish(Tier("a"))

    assert [client.slugs(path) for path in (BROKEN, WELL, PATH)] == [[], ["a"], ["a"]]


def test_a_filter_that_fails_shows_in_readiness_until_it_heals(make_client: MakeClient) -> None:  # noqa: F811
    client = make_client({"broken": {"tier": lambda items: [item for item in items if 6 / item.level]}})

    def state() -> str:
        checks = client.get("/readyz?verbose").json()["checks"]
        return next(f"{check['status']} {check['detail']}" for check in checks if check["name"] == "datasets")

    client.publish(Tier("a", 0))
    assert eventually(lambda: state().startswith("degraded the filter of broken for tiers failed: ZeroDivisionError"))
    assert client.get("/readyz").status == 200

    client.publish(Tier("a", 1))
    assert eventually(lambda: state().startswith("ok"))
    # Asking for the version it failed on makes nobody worry again.
    assert client.get(f"{BROKEN}?as_of=1").status == 503
    assert state().startswith("ok")


def test_an_application_and_a_route_that_hide_each_other_are_refused(boot: Boot, make_plugin: MakePlugin) -> None:
    plugin = make_plugin(
        "trace",
        register_applications=lambda services: [Application(slug="tiers", name="Tiers")],
        register_datasets=lambda services: [TIERS],
        register_routes=lambda services: [services.dataset_route(PATH, TIERS)],
    )

    with pytest.raises(BootError, match="application 'tiers' and the route /trace/public/tiers of trace hide"):
        boot(plugin)


@pytest.mark.parametrize("slug", ["", "Sky", "sky flow", "sky/flow", "ä", "default"])
def test_a_slug_that_is_no_segment_quarantines_its_plugin(slug: str, boot: Boot, make_plugin: MakePlugin) -> None:
    client: Client = boot(
        make_plugin("sky", register_applications=lambda services: [Application(slug=slug, name="Sky")])
    )

    status = client.service.registry.statuses["sky"]
    assert (status.state, "slug" in str(status.reason)) == ("quarantined", True)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"key": "id"}, "Tier has no field id"),
        ({"key": "slug", "order": ("-rank",)}, "Tier has no field rank"),
        ({"key": "slug", "file": "{feature}.json"}, "Tier has no field feature"),
        ({"key": "slug", "item": Thawed}, "Thawed must be frozen"),
        ({"key": "slug", "name": "../tiers"}, "expected small letters"),
    ],
)
def test_a_dataset_that_cannot_work_quarantines_its_plugin(
    given: dict[str, Any], reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    dataset = Dataset(**{"name": "tiers", "item": Tier, **given})

    client: Client = boot(make_plugin("sky", register_datasets=lambda services: [dataset]))

    assert reason in str(client.service.registry.statuses["sky"].reason)


def test_the_log_names_the_application(make_client: MakeClient) -> None:  # noqa: F811
    client: DatasetClient = make_client({"well": {}})
    client.publish(Tier("a"))
    seen: list[str | None] = []
    feed = client.service.shared.requests
    feed.subscribe("test", lambda records: seen.extend(record.application for record in records))

    client.get(WELL)

    assert eventually(lambda: seen == ["well"])
