"""The record of the latest complete backup: ``last_backup.json`` in the home directory.

Whatever makes backups writes it when one is complete, as its last step; ``tiercel check`` and ``/metrics`` read it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

FILE = "last_backup.json"


class LastBackup(msgspec.Struct, frozen=True):
    """The latest complete backup.

    Args:
        finished_at: When it was complete.
        directory: Where it is.
        kind: ``base``, ``incremental`` or ``dump``.
    """

    finished_at: Annotated[datetime, msgspec.Meta(tz=True)]
    directory: str
    kind: str


def read_last_backup(home: Path) -> LastBackup | None:
    """Return the record; None if no backup was made.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such record.
    """
    try:
        return msgspec.json.decode((home / FILE).read_bytes(), type=LastBackup)
    except FileNotFoundError:
        return None
