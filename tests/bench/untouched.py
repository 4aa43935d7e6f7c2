"""Tiercel without the log of touched hours: what ingest would cost if there were no rollups to keep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kernel.cli.main import main
from plugins.observability.ingest.preparing import Prepared


def _none(_prepared: Prepared) -> Sequence[datetime]:
    return []


if __name__ == "__main__":
    Prepared.hours = property(_none)  # type: ignore[method-assign, assignment]
    main()
