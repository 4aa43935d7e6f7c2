"""A plugin with a dataset, its route, and as many applications as the environment says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kernel import Application, Dataset, Route, Services, hookimpl

APPLICATIONS = int(os.environ.get("BENCH_APPLICATIONS", "1"))


class Item(msgspec.Struct, frozen=True):
    """One item, as exports have them."""

    slug: str
    name: str
    level: int
    tags: tuple[str, ...] = ()


ITEMS = Dataset(name="items", item=Item, key="slug")


def make_items(count: int, turn: int = 0) -> list[Item]:
    """Make items; another turn makes others."""
    tags = ("small", "falcon")
    return [Item(f"item-{number:06}", f"Item {number} {turn}", number % 10, tags) for number in range(count)]


def _below_nine(items: Sequence[Any]) -> Sequence[Any]:
    return [item for item in items if item.level < 9]


@hookimpl
def register_datasets(services: Services) -> Iterable[Dataset]:
    """Return the dataset."""
    return [ITEMS]


@hookimpl
def register_applications(services: Services) -> Iterable[Application]:
    """Return the applications."""
    return [
        Application(slug=f"app-{number}", name=f"App {number}", filters={"items": _below_nine})
        for number in range(APPLICATIONS)
    ]


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the route."""
    return [services.dataset_route("/shop/public/items/", ITEMS)]
