"""Factories of services with datasets and applications."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from kernel.contracts import Application, Dataset, Filter, Route
from kernel.datasets.models import Publication
from kernel.datasets.service import Datasets
from kernel.embedded.server import EmbeddedServer
from kernel.services import Services
from kernel.testing import Client, Result, create_database, drop_database, make_configuration, running
from tests.conftest import Serve
from tests.kernel.datasets.tagged import TAGS, THINGS, Tag, Thing, tagged_routes
from tests.kernel.fakes import MakePlugin, install_plugin
from tests.processes import eventually

PATH = "/trace/public/tiers/"
_numbers = itertools.count()
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
    """A clock that can be put forward or back."""

    __test__ = False

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class DatasetClient(Client):
    """A client of a service whose plugin publishes datasets."""

    @property
    def datasets(self) -> Datasets:
        return self.service.shared.datasets

    def get(self, path: str, **headers: str) -> Result:
        """Send a GET; headers by name, with ``_`` for ``-``."""
        return super().get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def publish(self, *items: Any, dataset: Dataset = TIERS, **given: Any) -> Publication:
        """Publish items and wait until the service has read them."""
        published = self.datasets.publish({dataset: items}, source="test", **given)[dataset.name]
        self.wait(published)
        return published

    def wait(self, published: Publication) -> None:
        """Wait until the service has read the outcome of an attempt to publish."""

        def is_read() -> bool:
            history = self.datasets._snapshots.history(published.dataset)
            return bool(history) and history[0].id >= published.id

        assert eventually(is_read)

    def data(self, path: str = PATH) -> Any:
        """Return the data of a response, which must be a 200."""
        answer = self.get(path)
        assert answer.status == 200, answer.content
        return answer.json()["data"]

    def slugs(self, path: str = PATH) -> list[str]:
        """Return the slugs of the items of a response."""
        return [item["slug"] for item in self.data(path)]


MakeClient = Callable[..., DatasetClient]


def default_routes(services: Services) -> Iterable[Route]:
    """Return routes of all tiers, of one tier, of members, and of an index."""
    return [
        services.dataset_route(PATH, TIERS),
        services.dataset_route(f"{PATH}{{slug}}/", TIERS, one=True),
        services.dataset_route("/trace/public/members/", MEMBERS),
        services.index_route("/trace/public/index/", [TIERS, MEMBERS], file="test_index.json"),
    ]


def client_factory(serve: Serve, make_plugin: MakePlugin) -> MakeClient:
    """Return a function that starts a service and returns a client of it."""

    def make(
        applications: Mapping[str, Mapping[str, Filter]] | None = None,
        *,
        datasets: Iterable[Dataset] = (TIERS, MEMBERS),
        routes: Routes = default_routes,
        others: Sequence[str] = (),
        dataset_settings: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> DatasetClient:
        made = [Application(slug=slug, name=slug, filters=each) for slug, each in (applications or {}).items()]
        plugin = make_plugin(
            "trace",
            register_datasets=lambda services: datasets,
            register_applications=lambda services: made,
            register_routes=routes,
        )
        if dataset_settings is not None:
            values["datasets"] = dataset_settings
        return DatasetClient(serve(plugins=["system", plugin, *others], **values).service)

    return make


@pytest.fixture
def make_client(serve: Serve, make_plugin: MakePlugin) -> MakeClient:
    """Make a client of a new service: ``make_client({"skyflow": {"tier": only_cheap}}, clock=...)``."""
    return client_factory(serve, make_plugin)


@pytest.fixture(scope="module")
def make_shared_client(server: EmbeddedServer, template: str) -> Iterator[MakeClient]:
    """As ``make_client``, with a separate database, for clients that the tests of a file share and only read from."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as monkeypatch:

        def serve(clock: Any = None, **values: Any) -> Client:
            database = create_database(server.conninfo, name := f"shared_{next(_numbers)}", template)
            stack.callback(drop_database, server.conninfo, name)
            log = {"level": "error", "requests": False}
            return stack.enter_context(running(make_configuration(db={"url": database}, log=log, **values), clock))

        yield client_factory(serve, lambda name, **hooks: install_plugin(monkeypatch, name, hooks))


@pytest.fixture
def client(make_client: MakeClient) -> DatasetClient:
    """A client of a service with one application, which sees tiers below level 3."""
    return make_client({"skyflow": {"tier": below_level_3}})


@pytest.fixture(scope="module")
def five_tiers(make_shared_client: MakeClient) -> DatasetClient:
    """A client of a service with five tiers and one application, which sees those below level 3. For reading only."""
    client = make_shared_client({"skyflow": {"tier": below_level_3}})
    client.publish(
        Tier("free", 1, "Free", ("Small", "new")),
        Tier("team", 2, "Team"),
        Tier("firm", 3, "Firm", ("large",)),
        Tier("club", 4, "Club", ("large", "new")),
        Tier("none"),
    )
    return client


def make_tagged_client(make: MakeClient, filters: Mapping[str, Filter] | None = None, **values: Any) -> DatasetClient:
    """Make a client of a service whose things have tags, with one application."""
    return make({"skyflow": filters or {}}, datasets=(THINGS, TAGS), routes=tagged_routes, **values)


@pytest.fixture
def make_tagged(make_client: MakeClient) -> MakeClient:
    """Make a client of a service whose things have tags: ``make_tagged({"tags": only_a}, clock=...)``."""
    return partial(make_tagged_client, make_client)


def publish_things(client: DatasetClient) -> None:
    """Publish two tags, and three things that have them."""
    client.publish(Tag("a", "A"), Tag("b", "B"), dataset=TAGS)
    client.publish(
        Thing("x", "b", "", ("b", "a", "gone")),
        Thing("y", None, "a", ("b",)),
        Thing("z", "lost", "lost"),
        dataset=THINGS,
    )


@pytest.fixture
def tagged(make_tagged: MakeClient) -> DatasetClient:
    """A client of a service with three things and two tags, of which the application sees one."""
    client = make_tagged({"tags": only_tag_a})
    publish_things(client)
    return client


@pytest.fixture(scope="module")
def shared_tagged(make_shared_client: MakeClient) -> DatasetClient:
    """As ``tagged``, for reading only."""
    client = make_tagged_client(make_shared_client, {"tags": only_tag_a})
    publish_things(client)
    return client


def below_level_3(items: Sequence[Any]) -> Sequence[Any]:
    """Keep tiers below level 3, and those without a level."""
    return [item for item in items if (item.level or 0) < 3]


def only_tag_a(items: Sequence[Any]) -> Sequence[Any]:
    """Keep one of the two tags."""
    return [item for item in items if item.slug == "a"]
