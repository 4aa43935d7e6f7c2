"""Tiercel's kernel. This file is its public face: what a plugin needs first.

Beside it, plugins may import ``kernel.http``, ``kernel.jobs``, ``kernel.datasets``, ``kernel.identity``,
``kernel.audit``, ``kernel.limits``, ``kernel.metrics``, ``kernel.cli`` and ``kernel.testing``; nothing else.
"""

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
from kernel.conversion import EndTime, JsonOutline, parse_time, strip_bom
from kernel.db.engine import Engine
from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.errors import (
    ApiError,
    ConflictError,
    FieldErrors,
    ForbiddenError,
    InvalidError,
    MalformedError,
    NotFoundError,
    TooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from kernel.hookspecs import hookimpl
from kernel.http.request import RawBody, Request, StreamBody
from kernel.http.response import Response, StreamingResponse
from kernel.identity import Identity
from kernel.notifications import notify
from kernel.retries import backoff_s, retry_after_s
from kernel.services import PluginStatus, Services
from kernel.settings import Secret, Table, env

__all__ = [
    "ApiError",
    "Application",
    "Cache",
    "CacheStats",
    "Command",
    "ConflictError",
    "Database",
    "Dataset",
    "EndTime",
    "Engine",
    "FieldErrors",
    "ForbiddenError",
    "Handler",
    "HealthCheck",
    "Identity",
    "InvalidError",
    "Job",
    "JsonOutline",
    "MalformedError",
    "Method",
    "NotFoundError",
    "PluginStatus",
    "Policy",
    "RawBody",
    "Request",
    "Response",
    "Route",
    "Secret",
    "Services",
    "StreamBody",
    "StreamingResponse",
    "Table",
    "TooLargeError",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnavailableError",
    "backoff_s",
    "collect_routes",
    "env",
    "hookimpl",
    "load_queries",
    "notify",
    "parse_time",
    "retry_after_s",
    "route",
    "strip_bom",
]
