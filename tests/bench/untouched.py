"""Tiercel without the log of touched hours: what ingest would cost if there were no rollups to keep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kernel.cli.main import main
from plugins.observability.ingest.normalize import NormalizedBatch


def _none(_batch: NormalizedBatch) -> Sequence[datetime]:
    return []


if __name__ == "__main__":
    NormalizedBatch.hours = property(_none)  # type: ignore[method-assign, assignment]
    main()
