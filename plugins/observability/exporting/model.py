"""Parameters of an export, and what its last line says."""

from __future__ import annotations

from typing import Literal

import msgspec

from plugins.observability.model import FilterQuery

FormatName = Literal["csv", "ndjson", "parquet"]


class ExportQuery(FilterQuery, frozen=True):
    """Parameters of an export: the filters and the order of the list.

    Args:
        format: Of the file.
    """

    format: FormatName = "csv"


class Summary(msgspec.Struct, frozen=True):
    """What a file ends with: one that does not broke off.

    Args:
        rows: How many events are in it.
        sha256: Of every byte before this, in hexadecimal digits.
    """

    rows: int
    sha256: str
