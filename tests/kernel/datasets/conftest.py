"""A service with a plugin that has datasets and applications, made where a test needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from kernel.contracts import Application, Dataset, Filter, Route
from kernel.datasets.model import Publication
from kernel.datasets.service import Datasets
from kernel.services import Services
from kernel.testing import Client, Result
from tests.conftest import Serve
from tests.kernel.datasets.lab import TAGS, THINGS, Tag, Thing, lab_routes
from tests.kernel.fakes import MakePlugin
from tests.processes import eventually

PATH = "/trace/public/tiers/"
Routes = Callable[[Services], Iterable[Route]]


class Tier(msgspec.Struct, frozen=True):
    slug: str
    level: int | None = None
    name: str = ""
    tags: tuple[str, ...] = ()
    score: float | None = None


class Member(msgspec.Struct, frozen=True):
    id: int


TIERS = Dataset(name="tiers", item=Tier, key="slug", order=("level",), filter_keys=("tier",))
MEMBERS = Dataset(name="members", item=Member, key="id")


class TestClock:
    """Tells the time it is told, after that of the machine."""

    __test__ = False

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Shop:
    """A service whose plugin has tiers and members, and some applications."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def datasets(self) -> Datasets:
        return self.client.service.shared.datasets

    def get(self, path: str, **headers: str) -> Result:
        return self.client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def publish(self, *items: Any, dataset: Dataset = TIERS, **given: Any) -> Publication:
        """Publish items and wait until they are served."""
        published = self.datasets.publish({dataset: items}, source="test", **given)[dataset.name]
        self.wait(published)
        return published

    def wait(self, published: Publication) -> None:
        def is_served() -> bool:
            history = self.datasets._snapshots.history(published.dataset)
            return bool(history) and history[0].id >= published.id

        assert eventually(is_served)

    def data(self, path: str = PATH) -> Any:
        answer = self.get(path)
        assert answer.status == 200, answer.content
        return answer.json()["data"]

    def slugs(self, path: str = PATH) -> list[str]:
        return [item["slug"] for item in self.data(path)]


OpenShop = Callable[..., Shop]


def default_routes(services: Services) -> Iterable[Route]:
    """Return the routes of both datasets, of one tier, and an index."""
    return [
        services.dataset_route(PATH, TIERS),
        services.dataset_route(f"{PATH}{{slug}}/", TIERS, one=True),
        services.dataset_route("/trace/public/members/", MEMBERS),
        services.index_route("/trace/public/index/", [TIERS, MEMBERS], file="test_index.json"),
    ]


@pytest.fixture
def open_shop(serve: Serve, make_plugin: MakePlugin) -> OpenShop:
    """Open a shop: ``open_shop({"skyflow": {"tier": only_cheap}}, clock=...)``."""

    def start(
        applications: Mapping[str, Mapping[str, Filter]] | None = None,
        *,
        datasets: Iterable[Dataset] = (TIERS, MEMBERS),
        routes: Routes = default_routes,
        others: Sequence[str] = (),
        **values: Any,
    ) -> Shop:
        made = [Application(slug=slug, name=slug, filters=each) for slug, each in (applications or {}).items()]
        plugin = make_plugin(
            "trace",
            register_datasets=lambda services: datasets,
            register_applications=lambda services: made,
            register_routes=routes,
        )
        return Shop(serve(plugins=["system", plugin, *others], **values))

    return start


@pytest.fixture
def shop(open_shop: OpenShop) -> Shop:
    """A shop with one application, which sees tiers below level 3."""
    return open_shop({"skyflow": {"tier": lambda items: [item for item in items if (item.level or 0) < 3]}})


OpenLab = Callable[..., Shop]


@pytest.fixture
def open_lab(open_shop: OpenShop) -> OpenLab:
    """Open a lab, where an application sees some tags."""

    def start(filters: Mapping[str, Filter] | None = None, **values: Any) -> Shop:
        return open_shop({"skyflow": filters or {}}, datasets=(THINGS, TAGS), routes=lab_routes, **values)

    return start


@pytest.fixture
def lab(open_lab: OpenLab) -> Shop:
    """A lab with three things and two tags, of which the application sees one."""
    lab = open_lab({"tags": lambda tags: [tag for tag in tags if tag.slug == "a"]})
    lab.publish(Tag("a", "A"), Tag("b", "B"), dataset=TAGS)
    lab.publish(
        Thing("x", "b", "", ("b", "a", "gone")),
        Thing("y", None, "a", ("b",)),
        Thing("z", "lost", "lost"),
        dataset=THINGS,
    )
    return lab
