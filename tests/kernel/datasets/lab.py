"""A plugin whose things have tags: datasets with relations, and routes that show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from kernel.contracts import Dataset, Route
from kernel.datasets.shapes import Derivation, Derived
from kernel.services import Services

if TYPE_CHECKING:
    from tests.kernel.datasets.conftest import Shop

PATH, APP = "/lab/public/things/", "/lab/public/skyflow/things/"


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


def shorten(things: Sequence[Thing], _before: Sequence[Thing]) -> Derived:
    """Count tags."""
    return Derived([Short(thing.slug, thing.main_tag, len(thing.tags)) for thing in things])


def count(things: Sequence[Thing], before: Sequence[Thing], tags: Sequence[Tag]) -> Derived:
    """Name every tag beside every thing."""
    return Derived(things, {"tags": [tag.slug for tag in tags], "before": len(before)})


def lab_routes(services: Services) -> Iterable[Route]:
    """Return things, one thing, tags, and things derived."""
    beside = Derivation(item=Thing, derive=count, beside=(TAGS,))
    return [
        services.dataset_route(PATH, THINGS),
        services.dataset_route(f"{PATH}{{slug}}/", THINGS, one=True),
        services.dataset_route("/lab/public/tags/", TAGS),
        services.dataset_route("/lab/public/short/", THINGS, derivation=Derivation(item=Short, derive=shorten)),
        services.dataset_route("/lab/public/beside/", THINGS, derivation=beside),
    ]


def meta(lab: Shop, path: str) -> Any:
    """Return what an answer says of itself."""
    return lab.get(path).json()["meta"]
