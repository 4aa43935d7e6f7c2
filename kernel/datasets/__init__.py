"""What plugins need of datasets besides ``kernel.Dataset`` and ``Services.datasets``."""

from kernel.datasets.diff import Difference
from kernel.datasets.http import Derivation, Derived
from kernel.datasets.models import Publication, Rejected, Version, find_key_problem
from kernel.datasets.query import parse_as_of
from kernel.datasets.service import ApplicationSummary, DatasetSummary, summarize_application, summarize_dataset

__all__ = [
    "ApplicationSummary",
    "DatasetSummary",
    "Derivation",
    "Derived",
    "Difference",
    "Publication",
    "Rejected",
    "Version",
    "find_key_problem",
    "parse_as_of",
    "summarize_application",
    "summarize_dataset",
]
