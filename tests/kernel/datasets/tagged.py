"""A plugin whose things have tags: datasets with relations, and routes that include and derive from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from kernel.contracts import Dataset, Route
from kernel.datasets.http import Derivation, Derived
from kernel.services import Services

if TYPE_CHECKING:
    from tests.kernel.datasets.conftest import DatasetClient

PATH, APP = "/test/public/things/", "/test/public/skyflow/things/"


class Tag(msgspec.Struct, frozen=True):
    slug: str
    name: str = ""
    parent: str | None = None


class Thing(msgspec.Struct, frozen=True, rename="camel"):
    slug: str
    main_tag: str | None = None
    old_tag: str = ""
    tags: tuple[str, ...] = ()
    level: int = 0


class Short(msgspec.Struct, frozen=True):
    """What a derivation leaves of a thing: one relation, and one field of another type."""

    slug: str
    main_tag: str | None
    tags: int


TAGS = Dataset(name="tags", item=Tag, key="slug", relations={"parent": "tags"})
RELATIONS = {"main_tag": "tags", "old_tag": "tags", "tags": "tags"}
THINGS = Dataset(name="things", item=Thing, key="slug", relations=RELATIONS)
A, B = {"slug": "a", "name": "A", "parent": None}, {"slug": "b", "name": "B", "parent": None}


def shorten(items: Sequence[Thing]) -> Derived:
    """Count tags."""
    return Derived([Short(thing.slug, thing.main_tag, len(thing.tags)) for thing in items])


def add_tags_to_meta(tags: Sequence[Tag], items: Sequence[Thing], previous: Sequence[Thing]) -> Derived:
    """Name every tag, and count the things of the version before."""
    return Derived(items, {"tags": [tag.slug for tag in tags], "before": len(previous)})


def tagged_routes(services: Services) -> Iterable[Route]:
    """Return routes of things, of one thing, of tags, and of what is derived from things."""
    with_tags = Derivation(item=Thing, derive=add_tags_to_meta, other_datasets=(TAGS,))
    return [
        services.dataset_route(PATH, THINGS),
        services.dataset_route(f"{PATH}{{slug}}/", THINGS, one=True),
        services.dataset_route("/test/public/tags/", TAGS),
        services.dataset_route("/test/public/short/", THINGS, derivation=Derivation(item=Short, derive=shorten)),
        services.dataset_route("/test/public/with-tags/", THINGS, derivation=with_tags),
    ]


def meta(client: DatasetClient, path: str) -> Any:
    """Return the ``meta`` of a response."""
    return client.get(path).json()["meta"]
