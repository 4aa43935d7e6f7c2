"""Datasets: versioned snapshots of what plugins publish, each application's view of them, and how they are served."""

from kernel.datasets.compare import Difference
from kernel.datasets.index import IndexAttempt, IndexEntry
from kernel.datasets.model import Publication, Rejected, Snapshot, Version
from kernel.datasets.selection import read_as_of
from kernel.datasets.service import Datasets
from kernel.datasets.shapes import Derivation, Derived
from kernel.datasets.summary import ApplicationSummary, DatasetSummary, summarize_application, summarize_dataset
from kernel.datasets.views import View

__all__ = [
    "ApplicationSummary",
    "DatasetSummary",
    "Datasets",
    "Derivation",
    "Derived",
    "Difference",
    "IndexAttempt",
    "IndexEntry",
    "Publication",
    "Rejected",
    "Snapshot",
    "Version",
    "View",
    "read_as_of",
    "summarize_application",
    "summarize_dataset",
]
