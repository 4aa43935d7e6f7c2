"""The log of a run: each line goes to the service's log, to the record of the job, and to a file if there is a folder.

The file of a job is ``job-<id>-<name>.log`` in ``jobs.log_dir``; all attempts append to it. It has the format of the
service's log, and is deleted with the record of the job, after ``jobs.keep_days``.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.types import EventDict, WrappedLogger

from kernel.errors import ApiError
from kernel.files import open_log
from kernel.jobs.store import Claim, JobStore
from kernel.logging import Logger, make_logger
from kernel.masking import mask_text
from kernel.settings import LogSettings

# Of one attempt; a job that logs in a loop must not fill the disk.
_LOG_LINES_MAX = 5000
_STORED_LEVELS = ("info", "warning", "error", "critical")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
# Others in the folder are not ours to delete.
_FILE_NAME = re.compile(r"job-\d+-[A-Za-z0-9._-]+\.log")
# As that of the log of the service: it may say whose data the job works on.
_FILE_MODE = 0o640
_DAY_S = 86400


class RunLogFiles:
    """The folder with a file for each job that ran.

    Args:
        folder: The folder, which need not exist yet.
        settings: The format and the lowest level of the lines.
    """

    def __init__(self, folder: Path, settings: LogSettings) -> None:
        self.folder = folder
        # The log file of the service gets each line of a run from the service's own logger.
        self._settings = msgspec.structs.replace(settings, file=None)

    def path_of(self, job_id: int, name: str) -> Path:
        """Return the file of a job."""
        return self.folder / f"job-{job_id}-{_UNSAFE.sub('_', name)}.log"

    def open(self, claim: Claim) -> tuple[Logger, TextIO]:
        """Open the file of a job to append to it; return a logger that writes to it, and the file to close.

        Raises:
            OSError: It cannot be opened.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = open_log(self.path_of(claim.id, claim.name), _FILE_MODE)
        file = os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
        return make_logger(self._settings, file).bind(attempt=claim.attempt), file

    def delete_old(self, keep_days: int) -> None:
        """Delete the files that no run has written to for so many days.

        Raises:
            OSError: The folder cannot be read, or a file cannot be deleted.
        """
        if not self.folder.is_dir():
            return
        oldest = time.time() - keep_days * _DAY_S
        for path in self.folder.iterdir():
            if _FILE_NAME.fullmatch(path.name) and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


class RunLog:
    """The log of one attempt at a job.

    Args:
        claim: Which job and attempt.
        store: Stores lines from ``info`` up.
        log: The service's log.
        files: Where the file of the job is; None writes none.
    """

    def __init__(self, claim: Claim, store: JobStore, log: Logger, files: RunLogFiles | None = None) -> None:
        self._claim = claim
        self._store = store
        self._service_log = log
        self._log = log.bind(job=claim.name, job_id=claim.id, request_id=claim.request_id)
        self._line_count = 0
        self._file_log: Logger | None = None
        self._file: TextIO | None = None
        if files is not None:
            try:
                self._file_log, self._file = files.open(claim)
            except OSError as ex:
                self._report_file(ex)
            began = {"job": claim.name, "job_id": claim.id, "request_id": claim.request_id}
            self._write_file("info", "job_began", began)
        wrapped = structlog.wrap_logger(
            _Sink(self._write), processors=[_to_arguments], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        # What the function of the job logs with.
        self.logger = cast("Logger", wrapped.bind())

    def note(self, level: str, event: str, **fields: Any) -> None:
        """Write a line about the run, which its record need not hold, to the service's log and to the file."""
        getattr(self._service_log, level)(event, job=self._claim.name, job_id=self._claim.id, **fields)
        self._write_file(level, event, fields)

    def close(self) -> None:
        """Close the file."""
        self._file_log = None
        if self._file is not None:
            try:
                self._file.close()
            except OSError as ex:
                self._report_file(ex)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        getattr(self._log, level)(event, **fields)
        if level not in _STORED_LEVELS or self._line_count > _LOG_LINES_MAX:
            return
        self._line_count += 1
        if self._line_count > _LOG_LINES_MAX:
            level, event, fields = "warning", "further lines are in the log of the service only", {}
        self._write_file(level, event, fields)
        try:
            self._store.insert_log_line(self._claim, level, event, _format_exception(fields))
        except ApiError as ex:
            # The service's log has it; a job need not fail because its log cannot be stored.
            self._log.warning("job_line_not_kept", reason=ex.detail)

    def _write_file(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if self._file_log is not None:
            # Reports a line that cannot be written, and does not raise.
            getattr(self._file_log, level)(event, **fields)

    def _report_file(self, error: OSError) -> None:
        # A disk that is full must not fail the job.
        self._log.warning("job_log_file_not_written", reason=str(error))


class _Sink:
    """What structlog writes to: it looks for a method of each level, and they are one."""

    def __init__(self, write: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._write = write

    def __getattr__(self, _method: str) -> Callable[[str, str, dict[str, Any]], None]:
        return self._write


def _format_exception(fields: dict[str, Any]) -> dict[str, Any]:
    formatted = {name: value for name, value in fields.items() if name != "exc_info"}
    error = fields.get("exc_info")
    if error:
        raised = error if isinstance(error, BaseException) else sys.exc_info()[1]
        if raised is not None:
            formatted["exception"] = mask_text("".join(traceback.format_exception(raised)))
    return formatted


def _to_arguments(_logger: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (method, event.pop("event", ""), event), {}
