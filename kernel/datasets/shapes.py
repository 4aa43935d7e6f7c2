"""What a route shows of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kernel.contracts import Application, Dataset, Handler, Policy, Route
from kernel.datasets.relations import relations_of


class Derived(msgspec.Struct, frozen=True):
    """Items made from others, with what is to be said about all of them.

    Args:
        items: In the order in which they are shown.
        meta: Further members of ``meta``.
    """

    items: Sequence[Any]
    meta: Mapping[str, Any] = {}


# From what an application sees of a snapshot, of the one before, and of the datasets beside it, a sequence of items
# each, to what it is shown. Must be pure.
Derive = Callable[..., Derived]


class Derivation(msgspec.Struct, frozen=True):
    """How a route makes its items from those of a dataset.

    Args:
        item: The Struct it makes.
        derive: From (items, items of the version before, items of each dataset beside it) to ``Derived``.
        beside: Further datasets, as they are when those items are.
    """

    item: type[msgspec.Struct]
    derive: Derive
    beside: tuple[Dataset, ...] = ()


# Two parts of the name under which answers are kept; the slug of an application goes between them.
CacheName = tuple[str, str]


class Place(msgspec.Struct, frozen=True):
    """Where a route stands, and for whom.

    Args:
        owner: The plugin that returns it.
        path: With ``/public/`` in it.
        policy: Who may use it.
        menu: Label under which pages list it.
        aliases: Further paths.
        cache_name: Under which its answers are kept; ``{owner}_data`` and a file by default.
    """

    owner: str
    path: str
    policy: Policy
    menu: str | None
    aliases: tuple[str, ...]
    cache_name: CacheName | None

    def name_for(self, file: str) -> CacheName:
        """Return the name under which answers about a file are kept."""
        return self.cache_name or (f"{self.owner}_data", file)

    def route(self, handler: Handler) -> Route:
        """Return the route, for everybody and for each application."""
        return Route(
            path=self.path,
            handler=handler,
            policy=self.policy,
            aliases=self.aliases,
            menu=self.menu,
            per_application=True,
        )


class Shape(msgspec.Struct, frozen=True):
    """What a route shows of a dataset.

    Args:
        dataset: Which one.
        name: Under which its answers are kept.
        segments: Segments of its path; each is a field that items must have as the path says.
        one: Whether the answer is one item, not a list.
        derivation: Makes the items that are shown.
    """

    dataset: Dataset
    name: CacheName
    segments: tuple[str, ...] = ()
    one: bool = False
    derivation: Derivation | None = None

    @property
    def item(self) -> type[msgspec.Struct]:
        """The Struct that is shown."""
        return self.dataset.item if self.derivation is None else self.derivation.item

    @property
    def beside(self) -> tuple[Dataset, ...]:
        """Datasets that are needed beside it."""
        return () if self.derivation is None else self.derivation.beside

    @property
    def relations(self) -> Mapping[str, str]:
        """By field of what is shown, the dataset whose keys it holds."""
        return relations_of(self.dataset, self.item)


def cache_name(name: CacheName, application: Application | None, segments: Mapping[str, Any]) -> str:
    """Return the name under which an answer is kept: ``club_data_skyflow_hero-metrics.json``."""
    first, last = name
    parts = (first, last) if application is None else (first, application.slug, last)
    joined = "_".join(parts)
    return joined.format_map(segments) if segments else joined
