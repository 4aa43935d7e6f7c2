"""The log of a run: every line goes to the service's log and to the record of the job."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any, cast

import structlog
from structlog.types import EventDict, WrappedLogger

from kernel.errors import ApiError

if TYPE_CHECKING:
    from kernel.jobs.store import Claim, JobStore
    from kernel.logging import Logger

# Of one attempt; a job that logs in a loop must not fill the disk.
LINES_MAX = 5000
_KEPT = ("info", "warning", "error", "critical")


class _Both:
    """Passes a line on to the service's log, and keeps it."""

    def __init__(self, claim: Claim, store: JobStore, log: Logger) -> None:
        self._claim = claim
        self._store = store
        self._log = log.bind(job=claim.name, job_id=claim.id, request_id=claim.request_id)
        self._lines = 0

    def line(self, level: str, event: str, fields: dict[str, Any]) -> None:
        getattr(self._log, level)(event, **fields)
        if level not in _KEPT or self._lines > LINES_MAX:
            return
        self._lines += 1
        if self._lines > LINES_MAX:
            level, event, fields = "warning", "further lines are in the log of the service only", {}
        try:
            self._store.write_line(self._claim, level, event, _plain(fields))
        except ApiError as ex:
            # The service's log has it; a job need not fail because its log cannot be kept.
            self._log.warning("job_line_not_kept", reason=ex.detail)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in fields.items() if name != "exc_info"}
    error = fields.get("exc_info")
    if error:
        raised = error if isinstance(error, BaseException) else sys.exc_info()[1]
        if raised is not None:
            kept["exception"] = "".join(traceback.format_exception(raised))
    return kept


def _hand_over(_logger: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (method, event.pop("event", ""), event), {}


class _Sink:
    """Has the methods structlog looks for; all of them are one."""

    def __init__(self, both: _Both) -> None:
        self._both = both

    def __getattr__(self, _method: str) -> Any:
        return self._both.line


def make_run_logger(claim: Claim, store: JobStore, log: Logger) -> Logger:
    """Make the logger of a run.

    Args:
        claim: Which job and attempt.
        store: Keeps lines from ``info`` up.
        log: The service's log.
    """
    wrapped = structlog.wrap_logger(
        _Sink(_Both(claim, store, log)),
        processors=[_hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    return cast("Logger", wrapped.bind())
