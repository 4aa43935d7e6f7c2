"""Resource tracking: where the time of a request went, for developers who ask for it with a header.

``X-Debug-Resource-Tracking: true`` makes a response say how long each phase took (``Server-Timing``), and under which
id (``X-Resource-Tracking-ID``) its statements are kept for a while, where every worker can read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from kernel.contracts import Route, collect_routes, route
from kernel.db.pool import Database
from kernel.db.queries import load_queries
from kernel.errors import ForbiddenError, NotFoundError, UnavailableError
from kernel.http.auth import Authorizer
from kernel.http.request import Request, RequestContext
from kernel.identity import Identity
from kernel.logging import Logger
from kernel.tracking import ResourceTracker, TrackedStatement, current_tracker, set_current_tracker

QUERIES = load_queries(__package__)
TRACKING_HEADER = "HTTP_X_DEBUG_RESOURCE_TRACKING"
KEPT_S = 3600
# Of each account.
KEPT_MAX = 100


class TrackedRequest(msgspec.Struct, frozen=True):
    """What one request took.

    Args:
        id: As in ``X-Resource-Tracking-ID``.
        tracked_at: When it ended.
        request_id: As in ``X-Request-ID``.
        method: In upper case.
        route: The route that answered, such as ``/api/requests/{id}``.
        status: Of the response.
        durations_ms: How long each phase took, and ``total``. ``sql`` is the waiting for the database: for the
            statements, and for transactions to begin and end.
        statement_count: Number of statements.
        statements: The first of them, in the order in which they were sent.
    """

    id: UUID
    tracked_at: datetime
    request_id: str
    method: str
    route: str
    status: int
    durations_ms: Mapping[str, float]
    statement_count: int
    statements: Sequence[TrackedStatement]


class ResourceTracking:
    """Tracks requests, and keeps what they took.

    Args:
        db: Connection pool.
        authorizer: Finds out who sends a request.
        log: Gets what could not be stored.
    """

    def __init__(self, db: Database, authorizer: Authorizer, log: Logger) -> None:
        self._db = db
        self._authorizer = authorizer
        self._log = log

    def begin(self, request: Request, identity: Identity | None) -> None:
        """Track a request until ``finish``, if it asks for that and its sender may see the result.

        Args:
            request: The request.
            identity: Who sends it; None on a public route, where the request is authenticated for this only.

        Raises:
            UnauthorizedError: Its credentials are wrong.
        """
        if request.env[TRACKING_HEADER].strip().lower() != "true":
            return
        identity = identity or self._authorizer.identify(request)
        if identity is not None and identity.account is not None and identity.is_developer:
            context = request.log_context
            context.tracked_for = identity.account
            tracker = current_tracker()
            if tracker is None:
                set_current_tracker(ResourceTracker(context.started_ns))
            else:
                tracker.is_reported = True

    def finish(self, tracker: ResourceTracker, context: RequestContext, method: str, status: int) -> None:
        """Store what a request took, if its client was told so."""
        if not tracker.is_reported:
            return
        try:
            with self._db.connection() as connection:
                connection.execute(
                    QUERIES["insert_tracked_request"],
                    {
                        "id": tracker.id,
                        "account": context.tracked_for,
                        "request_id": context.request_id,
                        "method": method,
                        "route": context.template,
                        "status": status,
                        "durations_ms": Jsonb(tracker.durations_ms()),
                        "statement_count": tracker.statement_count,
                        "statements": Jsonb(tracker.statements, dumps=msgspec.json.encode),
                        "kept_s": KEPT_S,
                        "kept_max": KEPT_MAX,
                    },
                )
        except (UnavailableError, psycopg.Error) as ex:
            # The response is what matters.
            self._log.warning("resource_tracking_not_stored", request_id=context.request_id, reason=str(ex))

    def routes(self) -> Sequence[Route]:
        """Return the route."""
        return collect_routes(self.show)

    @route("/api/v1/resource-tracking/{tracking_id}/", policy="read")
    def show(self, identity: Identity, tracking_id: UUID) -> TrackedRequest:
        """Show what a request took that was sent with `X-Debug-Resource-Tracking: true`: phases and statements.

        It is kept for an hour, the newest 100 of an account.

        Raises:
            ForbiddenError: Only owners, administrators and developers of an account may see it, and staff.
            NotFoundError: The account has no such request, or not any more.
        """
        if not identity.is_developer:
            raise ForbiddenError(detail="an owner, administrator or developer of the account is needed")
        values = {"id": tracking_id, "account": identity.account, "kept_s": KEPT_S}
        with self._db.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(QUERIES["find_tracked_request"], values).fetchone()
        if row is None:
            raise NotFoundError(detail=f"there is no tracked request {tracking_id}")
        return msgspec.convert(row, TrackedRequest)
