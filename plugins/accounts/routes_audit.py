"""``/api/v1/audit/``: the audit log of an account, for those who manage it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import msgspec

from kernel import Identity, Request, Response, Services, StreamingResponse, UnavailableError, route
from kernel.audit import AuditChains, AuditEntry, AuditFilter, ExportFormat, csv_header, encode_entries
from kernel.http import ConcurrencyLimit, Page, cursor_page, page_size_of, read_cursor

# Entries have the order of their times, as far as the clocks of the machines that write them agree.
Ordering = Literal["-number", "number", "-time", "time", ""]
# Of a process; each occupies a thread.
_EXPORTS_MAX = 2
_MEDIA_TYPES: dict[ExportFormat, str] = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


class AuditQuery(AuditFilter, frozen=True, kw_only=True):
    """Parameters of the list: which entries, and a page of them.

    Args:
        ordering: ``number`` or ``time``, which are the same order; a leading ``-`` sorts descending. Latest first by
            default.
        page_size: Entries per page; ``http.page_size`` by default.
        cursor: From ``next`` or ``previous`` of another page.
    """

    ordering: Ordering = ""
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: str = ""


class AuditExportQuery(AuditFilter, frozen=True, kw_only=True):
    """Parameters of an export.

    Args:
        format: Of the file.
    """

    format: ExportFormat = "ndjson"


class AuditRoutes:
    """The handlers of ``/api/v1/audit/``.

    Args:
        chains: Reads entries.
        services: Page sizes, and whether the process stops.
    """

    def __init__(self, chains: AuditChains, services: Services) -> None:
        self._chains = chains
        self._http = services.kernel_settings.http
        self._stopping = services.stopping
        self._exports = ConcurrencyLimit(_EXPORTS_MAX, f"this process runs {_EXPORTS_MAX} exports of the audit log")

    @route("/api/v1/audit/", policy="read", menu="audit log")
    def list(self, request: Request, identity: Identity, query: AuditQuery) -> Page[AuditEntry]:
        """List the entries of the account, the latest first."""
        identity.ensure_manager()
        page_size = page_size_of(query.page_size, self._http.page_size, self._http.page_size_max)
        ordering = query.ordering or "-number"
        cursor = read_cursor(query.cursor, ordering, (Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)],))
        is_backwards = cursor is not None and cursor.backwards
        entries = self._chains.list(
            _account_of(identity),
            query,
            descending=ordering.startswith("-") != is_backwards,
            beyond=None if cursor is None else cursor.values[0],
            limit=page_size + 1,
        )
        return cursor_page(
            request,
            entries[::-1] if is_backwards else entries,
            cursor=cursor,
            page_size=page_size,
            ordering=ordering,
            keys_of=lambda entry: (entry.number,),
        )

    @route(
        "/api/v1/audit/export/",
        policy="read",
        throttle="export",
        responses={200: {"application/x-ndjson": AuditEntry, "text/csv": str}},
    )
    def export(self, identity: Identity, query: AuditExportQuery) -> Response[StreamingResponse]:
        """Export the entries of the account, the earliest first, as JSON lines or CSV."""
        identity.ensure_manager()
        batches = self._chains.scan(_account_of(identity), query)
        # A failure of the database still has a status here; later it can only cut the file off.
        first = next(batches, ())
        file = _ExportFile(query.format, first, batches, self._exports.acquire(), self._stopping.is_set)
        headers = {
            "Content-Disposition": f'attachment; filename="audit.{query.format}"',
            "Cache-Control": "no-store",
        }
        return Response(StreamingResponse(file, _MEDIA_TYPES[query.format]), headers=headers)


class _ExportFile:
    """The chunks of a file.

    Args:
        file_format: Of the file.
        first: The first entries.
        batches: The others.
        release: Lets the next export begin.
        is_stopping: Tells whether the process is asked to stop.
    """

    def __init__(
        self,
        file_format: ExportFormat,
        first: Sequence[AuditEntry],
        batches: Iterator[Sequence[AuditEntry]],
        release: Callable[[], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._format = file_format
        self._first = first
        self._batches = batches
        self._release = release
        self._is_stopping = is_stopping

    def __iter__(self) -> Iterator[bytes]:
        if self._format == "csv":
            yield csv_header()
        batch: Sequence[AuditEntry] = self._first
        while batch:
            yield encode_entries(batch, self._format)
            if self._is_stopping():
                # Not a shorter file that looks whole.
                raise UnavailableError("the service is stopping")
            batch = next(self._batches, ())

    def close(self) -> None:
        """Let the next export begin."""
        self._release()


def _account_of(identity: Identity) -> int:
    # Nobody without an account comes this far.
    return -1 if identity.account is None else identity.account
