"""Datasets and applications in a line each, for lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from kernel.applications import filter_keys
from kernel.contracts import Application
from kernel.datasets.files import file_pattern
from kernel.datasets.service import Datasets
from kernel.errors import UnavailableError


class DatasetSummary(msgspec.Struct, frozen=True):
    """A dataset and what serves at the moment.

    Args:
        name: Unique over all plugins.
        key: The field that identifies an item.
        file: How its files are called.
        filter_keys: Further names under which filters of applications may speak of it.
        version: Of what serves; None if nothing does.
        items: How many it holds.
        size_bytes: Of the items as JSON.
        sha256: Of the content, hexadecimal.
        published_at: When that version was published.
        confirmed_at: When an export last found this to be so.
        warning: Why the last attempt to publish was refused, if it was.
        reason: Why nothing serves.
    """

    name: str
    key: str
    file: str
    filter_keys: tuple[str, ...]
    version: int | None = None
    items: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    published_at: datetime | None = None
    confirmed_at: datetime | None = None
    warning: str | None = None
    reason: str | None = None


class FilterSummary(msgspec.Struct, frozen=True):
    """A filter of an application.

    Args:
        key: Under which the application gave it.
        datasets: Those it concerns; none if no plugin has a dataset of that name.
    """

    key: str
    datasets: Sequence[str]


class ItemCount(msgspec.Struct, frozen=True):
    """How much of a dataset an application sees.

    Args:
        dataset: Its name.
        items: After the application's filters; None if that cannot be said.
        reason: Why it cannot.
    """

    dataset: str
    items: int | None
    reason: str | None = None


class ApplicationSummary(msgspec.Struct, frozen=True):
    """An application and what it sees.

    Args:
        slug: Its segment in URLs.
        name: For people.
        features: The features it knows.
        services: The services whose request logs belong to it.
        filters: Each with the datasets it concerns.
        datasets: How much it sees of each.
    """

    slug: str
    name: str
    features: Sequence[str]
    services: Sequence[str]
    filters: Sequence[FilterSummary]
    datasets: Sequence[ItemCount]


def summarize_dataset(datasets: Datasets, name: str) -> DatasetSummary:
    """Say what a dataset is and what serves.

    Raises:
        NotFoundError: There is none of that name.
    """
    dataset = datasets.find(name)
    summary = DatasetSummary(name, dataset.key, file_pattern(dataset), dataset.filter_keys)
    try:
        snapshot = datasets.read(name).snapshot
    except UnavailableError as ex:
        return msgspec.structs.replace(summary, reason=ex.detail)
    return msgspec.structs.replace(
        summary,
        version=snapshot.version,
        items=len(snapshot.items),
        size_bytes=snapshot.size_bytes,
        sha256=snapshot.sha256,
        published_at=snapshot.published_at,
        confirmed_at=snapshot.confirmed_at,
        warning=snapshot.warning,
    )


def summarize_application(datasets: Datasets, application: Application) -> ApplicationSummary:
    """Say what an application is and how much it sees."""
    keys = {name: filter_keys(dataset) for name, dataset in datasets.all.items()}
    return ApplicationSummary(
        slug=application.slug,
        name=application.name,
        features=application.features,
        services=application.services,
        filters=[
            FilterSummary(key, [name for name, names in keys.items() if key in names]) for key in application.filters
        ],
        datasets=[_count(datasets, name, application) for name in datasets.all],
    )


def _count(datasets: Datasets, name: str, application: Application) -> ItemCount:
    try:
        return ItemCount(name, len(datasets.read(name, application).items))
    except UnavailableError as ex:
        return ItemCount(name, None, ex.detail)
