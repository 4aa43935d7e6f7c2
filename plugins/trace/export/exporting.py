"""Read all sources and link their rows: everything that is done before anything is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from kernel import Dataset, Services
from plugins.trace.datasets import DATASETS
from plugins.trace.export.linking import Linked
from plugins.trace.export.model import Certificate
from plugins.trace.settings import TraceSettings
from plugins.trace.store import Kept


class Watcher(msgspec.Struct, frozen=True):
    """Whoever wants to know how far an export is.

    Args:
        check: Raises if it has to end.
        progress: Told how many rows came, and of what at the moment; raises as ``check``.
        warn: Told why something is tried again.
    """

    check: Callable[[], None]
    progress: Callable[[int, str], None]
    warn: Callable[[str], None]


class Exported(msgspec.Struct, frozen=True):
    """What was read, complete.

    Args:
        kept: By dataset, what to keep.
        linked: By dataset, its items.
        certificate: How.
        moved: Pages that were moved before, and when.
    """

    kept: Mapping[Dataset, Kept]
    linked: Mapping[Dataset, Linked]
    certificate: Certificate
    moved: Mapping[str, datetime]


def read_all(services: Services, watcher: Watcher, *, full: bool) -> Exported:
    """Read every source.

    Args:
        services: Of this plugin.
        watcher: Hears of progress; may end it.
        full: Every row, and not only those that have changed.

    Raises:
        NotionError: A source cannot be read whole, or relations do not close.
    """
    # Imported where it is needed: it takes a tenth of a second, which a process that reads nothing need not pay.
    from plugins.trace.export.sources import Export

    export = Export(services, watcher)
    try:
        return export.read(full=full)
    finally:
        export.close()


def exported_datasets(settings: TraceSettings) -> Sequence[Dataset]:
    """Return the datasets that have a source."""
    return [each for each in DATASETS if each.name in settings.sources]
