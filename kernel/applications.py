"""The applications of a service, and their filters by dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from kernel.contracts import Application, Dataset, Filter
from kernel.errors import NotFoundError
from kernel.identity import current_identity
from kernel.signatures import accepts_any_keyword, parameter_types
from kernel.suggestions import nearest_name, suggest

_SLUG = re.compile(r"[a-z0-9-]+")
# The name of the unfiltered view, in place of an application's slug.
DEFAULT = "default"


class NamedFilter(msgspec.Struct, frozen=True):
    """A filter of an application.

    Args:
        key: The key under which the application registered it.
        function: From items to those that the application sees; called by name, with ``items``.
    """

    key: str
    function: Filter


class UnmatchedFilter(msgspec.Struct, frozen=True):
    """A filter whose key fits no dataset.

    Args:
        plugin: The plugin that registered the application.
        application: Slug of the application.
        key: The key of the filter.
        nearest: The most similar key that fits a dataset, if one is similar.
    """

    plugin: str
    application: str
    key: str
    nearest: str | None

    def __str__(self) -> str:
        wrong = f"the filter {self.key!r} of {self.application} matches no dataset, and so hides nothing"
        return wrong + suggest(self.nearest)


class Applications:
    """Every application by its slug. Filled once the plugins have registered theirs."""

    def __init__(self) -> None:
        self._by_slug: dict[str, Application] = {}
        # By slug and name of a dataset.
        self._filters: dict[tuple[str, str], tuple[NamedFilter, ...]] = {}
        self.unmatched_filters: Sequence[UnmatchedFilter] = ()

    def install(self, applications: Iterable[tuple[str, Application]], datasets: Iterable[Dataset]) -> None:
        """Install what the plugins registered, in place of what was installed, and find the dataset of each filter.

        Args:
            applications: Every application, with the plugin that registered it.
            datasets: Every dataset.
        """
        owned = list(applications)
        names_by_key = _dataset_names_by_key(datasets)
        filters: dict[tuple[str, str], tuple[NamedFilter, ...]] = {}
        unmatched: list[UnmatchedFilter] = []
        for plugin, application in owned:
            for key, function in application.filters.items():
                for name in names_by_key.get(key, ()):
                    place = (application.slug, name)
                    filters[place] = (*filters.get(place, ()), NamedFilter(key, function))
                if key not in names_by_key:
                    nearest = nearest_name(key, names_by_key)
                    unmatched.append(UnmatchedFilter(plugin, application.slug, key, nearest))
        self._by_slug = {application.slug: application for _, application in owned}
        self._filters = filters
        self.unmatched_filters = unmatched

    @property
    def all(self) -> Sequence[Application]:
        """Every application, in configured order."""
        return tuple(self._by_slug.values())

    @property
    def readable(self) -> Sequence[Application]:
        """Every application whose views the current identity may read."""
        identity = current_identity()
        limits = None if identity is None else identity.applications
        return tuple(each for each in self.all if limits is None or each.slug in limits)

    @property
    def slugs(self) -> Sequence[str]:
        """Every slug, in configured order."""
        return tuple(self._by_slug)

    def find(self, slug: str) -> Application:
        """Return an application.

        Raises:
            NotFoundError: There is none of that slug; lists those that there are.
        """
        try:
            return self._by_slug[slug]
        except KeyError:
            raise NotFoundError(
                f"Unknown application: {slug:.80}",
                detail=f"applications: {', '.join(self._by_slug) or 'none'}",
                extra={"available_apps": list(self._by_slug)},
            ) from None

    def filters_for(self, application: Application | None, dataset: Dataset) -> Sequence[NamedFilter]:
        """Return the filters of an application for a dataset, in the order in which it registered them."""
        return () if application is None else self._filters.get((application.slug, dataset.name), ())


def validate_application(application: Application) -> None:
    """Validate an application, without regard to others.

    Raises:
        ValueError: Its slug is not allowed.
        TypeError: A filter cannot be called with ``items``.
    """
    if not _SLUG.fullmatch(application.slug) or application.slug == DEFAULT:
        raise ValueError(f"slug {application.slug!r:.80}: expected small letters, digits and '-', and not {DEFAULT!r}")
    for key, function in application.filters.items():
        if "items" not in parameter_types(function, {"items"}) and not accepts_any_keyword(function):
            raise TypeError(f"the filter {key!r} of {application.slug} does not take 'items'")


def slug_of(application: Application | None) -> str:
    """Return the slug of an application, or the name of the unfiltered view."""
    return DEFAULT if application is None else application.slug


def filter_keys(dataset: Dataset) -> Sequence[str]:
    """Return every key under which an application may register a filter for a dataset, its name first."""
    names = (dataset.name, *dataset.filter_keys)
    return (*names, *(f"{name}_filter" for name in names))


def _dataset_names_by_key(datasets: Iterable[Dataset]) -> Mapping[str, Sequence[str]]:
    names: dict[str, list[str]] = {}
    for dataset in datasets:
        for key in dict.fromkeys(filter_keys(dataset)):
            names.setdefault(key, []).append(dataset.name)
    return names
