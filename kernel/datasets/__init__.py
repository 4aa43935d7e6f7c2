"""What plugins need of datasets besides ``kernel.Dataset`` and ``Services.datasets``."""

from kernel.datasets.diff import Difference
from kernel.datasets.http import Derivation, Derived
from kernel.datasets.models import (
    DatasetReport,
    Publication,
    Rejected,
    Version,
    find_key_problem,
    report_publications,
)
from kernel.datasets.pages import DatasetPages, ViewQuery
from kernel.datasets.presentation import DatasetPage
from kernel.datasets.query import parse_as_of
from kernel.datasets.service import (
    ApplicationSummary,
    DatasetSummary,
    FilterSummary,
    summarize_application,
    summarize_dataset,
)

__all__ = [
    "ApplicationSummary",
    "DatasetPage",
    "DatasetPages",
    "DatasetReport",
    "DatasetSummary",
    "Derivation",
    "Derived",
    "Difference",
    "FilterSummary",
    "Publication",
    "Rejected",
    "Version",
    "ViewQuery",
    "find_key_problem",
    "parse_as_of",
    "report_publications",
    "summarize_application",
    "summarize_dataset",
]
