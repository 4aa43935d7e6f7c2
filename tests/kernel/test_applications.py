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
from tests.kernel.fakes import Boot, CapturedLog, MakePlugin
from tests.processes import eventually

BROKEN, WELL = "/trace/public/broken/tiers/", "/trace/public/well/tiers/"


class Thawed(msgspec.Struct):
    slug: str


def keep(items: Sequence[Any]) -> Sequence[Any]:
    """Show everything."""
    return items


def empty(items: list[Any]) -> Sequence[Any]:
    """Change the list that was passed."""
    items.clear()
    return items


def no_parameters() -> Sequence[Any]:
    """Take nothing."""
    return []


def oops(items: Sequence[Any]) -> Sequence[Any]:
    """Fail."""
    raise RuntimeError("oops")


@pytest.mark.parametrize("key", ["tiers", "tier", "tiers_filter", "tier_filter"])
def test_a_filter_is_found_under_every_documented_key_of_its_dataset(key: str) -> None:
    application = Application(slug="skyflow", name="Skyflow", filters={key: keep, "other": oops})
    applications = Applications()
    applications.install([("sky", application)], [TIERS])

    assert applications.filters_for(application, TIERS) == (NamedFilter(key, keep),)


def test_two_filters_for_one_dataset_are_both_applied(make_client: MakeClient) -> None:  # noqa: F811
    filters = {"tiers": lambda items: items[1:], "tier_filter": lambda items: items[:-1]}
    client = make_client({"well": filters})
    client.publish(Tier("a", 1), Tier("b", 2), Tier("c", 3))

    explained = client.get(f"{WELL}?explain=1").json()

    assert [item["slug"] for item in explained["data"]] == ["b"]
    assert [(each["filter"], each["keys"]) for each in explained["meta"]["explain"]] == [
        ("tiers", ["a"]),
        ("tier_filter", ["c"]),
    ]


def test_a_filter_whose_key_fits_no_dataset_is_logged_with_the_nearest_key(
    boot: Boot, captured: CapturedLog, make_plugin: MakePlugin
) -> None:
    application = Application(slug="skyflow", name="Skyflow", filters={"tier": keep, "teirs": keep, "members": keep})
    client: Client = boot(
        make_plugin("sky", register_applications=lambda services: [application]),
        make_plugin("trace", register_datasets=lambda services: [TIERS]),
    )

    client.service.start()
    client.service.stop()

    logged = captured.events("filter_matches_no_dataset")
    assert [[entry[name] for name in ("plugin", "application", "key", "nearest")] for entry in logged] == [
        ["sky", "skyflow", "teirs", "tiers"],
        ["sky", "skyflow", "members", None],
    ]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda tiers: tiers, "takes 'tiers'; it can be given items"),
        (lambda items, /: items, "takes 'items' by position only"),
        (no_parameters, "the filter 'tier' of skyflow does not take 'items'"),
        (list, "the filter 'tier' of skyflow does not take 'items'"),
    ],
)
def test_a_filter_that_cannot_be_called_by_name_quarantines_its_plugin(
    wrong: Any, reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    application = Application(slug="skyflow", name="Skyflow", filters={"tier": wrong})

    client: Client = boot(make_plugin("sky", register_applications=lambda services: [application]))

    assert reason in str(client.service.registry.statuses["sky"].reason)


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
def test_a_filter_that_fails_is_a_503_for_its_application_only(
    wrong: Callable[..., Any],
    reason: str,
    make_client: MakeClient,  # noqa: F811
) -> None:
    client = make_client({"broken": {"tier": wrong}, "well": {"tier": keep}})
    client.publish(Tier("a"))

    answer = client.get(BROKEN)

    assert (answer.status, answer.json()["detail"]) == (503, f"the filter of broken for tiers failed: {reason}")
    assert [client.slugs(path) for path in (PATH, WELL)] == [["a"], ["a"]]


def test_a_filter_that_clears_its_list_does_not_affect_others(make_client: MakeClient) -> None:  # noqa: F811
    client = make_client({"broken": {"tier": empty}, "well": {"tier": keep}})
    client.publish(Tier("a"))

    assert [client.slugs(path) for path in (BROKEN, WELL, PATH)] == [[], ["a"], ["a"]]


def test_readiness_shows_a_failing_filter_until_it_works_again(make_client: MakeClient) -> None:  # noqa: F811
    client = make_client({"broken": {"tier": lambda items: [item for item in items if 6 / item.level]}})

    def state() -> str:
        checks = client.get("/readyz?verbose").json()["checks"]
        return next(f"{check['status']} {check['detail']}" for check in checks if check["name"] == "datasets")

    client.publish(Tier("a", 0))
    assert eventually(lambda: state().startswith("degraded the filter of broken for tiers failed: ZeroDivisionError"))
    assert client.get("/readyz").status == 200

    client.publish(Tier("a", 1))
    assert eventually(lambda: state().startswith("ok"))
    # A request for the version on which it failed does not make the check fail again.
    assert client.get(f"{BROKEN}?as_of=1").status == 503
    assert state().startswith("ok")


def test_an_application_and_a_route_that_hide_each_other_stop_the_boot(boot: Boot, make_plugin: MakePlugin) -> None:
    plugin = make_plugin(
        "trace",
        register_applications=lambda services: [Application(slug="tiers", name="Tiers")],
        register_datasets=lambda services: [TIERS],
        register_routes=lambda services: [services.dataset_route(PATH, TIERS)],
    )

    with pytest.raises(BootError, match="application 'tiers' and the route /trace/public/tiers of trace hide"):
        boot(plugin)


@pytest.mark.parametrize("slug", ["", "Sky", "sky flow", "sky/flow", "ä", "default"])
def test_an_invalid_slug_quarantines_its_plugin(slug: str, boot: Boot, make_plugin: MakePlugin) -> None:
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
def test_an_invalid_dataset_quarantines_its_plugin(
    given: dict[str, Any], reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    dataset = Dataset(**{"name": "tiers", "item": Tier, **given})

    client: Client = boot(make_plugin("sky", register_datasets=lambda services: [dataset]))

    assert reason in str(client.service.registry.statuses["sky"].reason)


def test_request_records_name_the_application(make_client: MakeClient) -> None:  # noqa: F811
    client: DatasetClient = make_client({"well": {}})
    client.publish(Tier("a"))
    seen: list[str | None] = []
    feed = client.service.shared.requests
    feed.subscribe("test", lambda records: seen.extend(record.application for record in records))

    client.get(WELL)

    assert eventually(lambda: seen == ["well"])
