"""Tiercel's kernel. This file is its public face: what a plugin needs first.

Beside it, plugins may import ``kernel.jobs``, ``kernel.datasets``, ``kernel.cli`` and ``kernel.testing``; nothing else.
"""

from kernel.applications import Applications
from kernel.cache import Cache, CacheStats
from kernel.contracts import (
    Application,
    Command,
    Dataset,
    Handler,
    HealthCheck,
    Job,
    Method,
    Policy,
    Route,
    collect_routes,
    route,
)
from kernel.conversion import parse_time
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
from kernel.hookspecs import hookimpl
from kernel.http.access_log import RequestRecord
from kernel.http.compression import DecompressionError, Decompressor, decompress
from kernel.http.health import CheckResult
from kernel.http.limits import ConcurrencyLimit
from kernel.http.pagination import Cursor, Page, cursor_page, numbered_page, page_size_of, read_cursor
from kernel.http.request import RawBody, Request, StreamBody, require_json
from kernel.http.response import Envelope, Listing, Response, Single, StreamingResponse, envelope, listing, single
from kernel.retries import backoff_s, retry_after_s
from kernel.services import PluginStatus, Services
from kernel.settings import Secret, Table, env

__all__ = [
    "ApiError",
    "Application",
    "Applications",
    "Cache",
    "CacheStats",
    "CheckResult",
    "Command",
    "ConcurrencyLimit",
    "ConflictError",
    "Cursor",
    "Database",
    "Dataset",
    "DecompressionError",
    "Decompressor",
    "Engine",
    "Envelope",
    "ForbiddenError",
    "Handler",
    "HealthCheck",
    "InvalidError",
    "Job",
    "Listing",
    "MalformedError",
    "Method",
    "NotFoundError",
    "Page",
    "PluginStatus",
    "Policy",
    "RawBody",
    "Request",
    "RequestRecord",
    "Response",
    "Route",
    "Secret",
    "Services",
    "Single",
    "StreamBody",
    "StreamingResponse",
    "Table",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedMediaError",
    "backoff_s",
    "collect_routes",
    "cursor_page",
    "decompress",
    "env",
    "envelope",
    "hookimpl",
    "listing",
    "load_queries",
    "numbered_page",
    "page_size_of",
    "parse_time",
    "read_cursor",
    "require_json",
    "retry_after_s",
    "route",
    "single",
]
