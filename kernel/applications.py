"""The applications of a service, and which of their filters concern a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from kernel.contracts import Application, Dataset, Filter
from kernel.errors import NotFoundError

_SLUG = re.compile(r"[a-z0-9-]+")
# What the unfiltered view is called where an application's slug would stand.
DEFAULT = "default"


class Applications:
    """Every application by its slug. Filled once the plugins have registered theirs."""

    def __init__(self) -> None:
        self._by_slug: dict[str, Application] = {}

    def install(self, applications: Iterable[Application]) -> None:
        """Take what the plugins registered, in place of what was there."""
        self._by_slug = {application.slug: application for application in applications}

    @property
    def all(self) -> Sequence[Application]:
        """Every application, in configured order."""
        return tuple(self._by_slug.values())

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


def validate_slug(application: Application) -> None:
    """Refuse a slug that is no segment of a URL, or stands for everybody's view.

    Raises:
        ValueError: It is wrong.
    """
    if not _SLUG.fullmatch(application.slug) or application.slug == DEFAULT:
        raise ValueError(f"slug {application.slug!r:.80}: expected small letters, digits and '-', and not {DEFAULT!r}")


def slug_of(application: Application | None) -> str:
    """Return the slug of an application, or what the unfiltered view is called."""
    return DEFAULT if application is None else application.slug


def filters_of(application: Application, dataset: Dataset) -> Mapping[str, Filter]:
    """Return the filters of an application that concern a dataset, by the key it gave them."""
    keys = filter_keys(dataset)
    return {key: each for key, each in application.filters.items() if key in keys}


def filter_keys(dataset: Dataset) -> frozenset[str]:
    """Return every name under which a filter may speak of a dataset."""
    names = (dataset.name, *dataset.filter_keys)
    return frozenset(names) | {f"{name}_filter" for name in names}
