"""Tiercel's kernel. This file is its public face: what plugins may import, and nothing else."""

from kernel.applications import Applications
from kernel.cache import Cache, CacheStats
from kernel.contracts import Application, Command, Dataset, Handler, HealthCheck, Job, Method, Policy, Route
from kernel.datasets.compare import Difference
from kernel.datasets.differences import print_difference
from kernel.datasets.index import IndexAttempt, IndexEntry
from kernel.datasets.model import Publication, Rejected, Snapshot, Version
from kernel.datasets.selection import read_as_of
from kernel.datasets.service import Datasets
from kernel.datasets.shapes import Derivation, Derived
from kernel.datasets.summary import ApplicationSummary, DatasetSummary, summarize_application, summarize_dataset
from kernel.datasets.views import View
from kernel.db.engine import Engine
from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    MalformedError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
)
from kernel.fields import parse_time
from kernel.hookspecs import hookimpl
from kernel.http.bodies import RawBody, StreamBody, require_json
from kernel.http.envelopes import Envelope, Listing, Single, envelope, listing, single
from kernel.http.health import CheckResult
from kernel.http.pages import Cursor, Page, decode_cursor, encode_cursor, link, numbered
from kernel.http.places import Places
from kernel.http.request import Request
from kernel.http.request_log import RequestRecord
from kernel.http.responses import Reply, Stream
from kernel.jobs.follow import Follower, JobEvent
from kernel.jobs.model import JobError, JobFigures, JobLogLine, JobRecord, JobState, Progress, RunStopped
from kernel.jobs.overview import JobSummary, summarize_jobs
from kernel.jobs.run import Run
from kernel.jobs.service import Jobs
from kernel.options import struct_options
from kernel.retries import backoff_s, retry_after_s
from kernel.services import PluginStatus, Services
from kernel.settings import Secret, Table, env
from kernel.terminal import print_json, print_table, progress

__all__ = [
    "ApiError",
    "Application",
    "ApplicationSummary",
    "Applications",
    "Cache",
    "CacheStats",
    "CheckResult",
    "Command",
    "ConflictError",
    "Cursor",
    "Database",
    "Dataset",
    "DatasetSummary",
    "Datasets",
    "Derivation",
    "Derived",
    "Difference",
    "Engine",
    "Envelope",
    "Follower",
    "ForbiddenError",
    "Handler",
    "HealthCheck",
    "IndexAttempt",
    "IndexEntry",
    "InvalidError",
    "Job",
    "JobError",
    "JobEvent",
    "JobFigures",
    "JobLogLine",
    "JobRecord",
    "JobState",
    "JobSummary",
    "Jobs",
    "Listing",
    "MalformedError",
    "Method",
    "NotFoundError",
    "Page",
    "Places",
    "PluginStatus",
    "Policy",
    "Progress",
    "Publication",
    "RawBody",
    "Rejected",
    "Reply",
    "Request",
    "RequestRecord",
    "Route",
    "Run",
    "RunStopped",
    "Secret",
    "Services",
    "Single",
    "Snapshot",
    "Stream",
    "StreamBody",
    "Table",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedMediaError",
    "Version",
    "View",
    "backoff_s",
    "decode_cursor",
    "encode_cursor",
    "env",
    "envelope",
    "hookimpl",
    "link",
    "listing",
    "load_queries",
    "numbered",
    "parse_time",
    "print_difference",
    "print_json",
    "print_table",
    "progress",
    "read_as_of",
    "require_json",
    "retry_after_s",
    "single",
    "struct_options",
    "summarize_application",
    "summarize_dataset",
    "summarize_jobs",
]
