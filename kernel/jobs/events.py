"""Follow one job: the events since the last poll."""

from __future__ import annotations

from typing import Literal

import msgspec

from kernel.identity import acting_as, current_identity
from kernel.jobs.models import JobLogLine, JobRecord, Progress
from kernel.jobs.service import Jobs


class JobEvent(msgspec.Struct, frozen=True):
    """A change of a job.

    Args:
        kind: ``state`` comes with the whole record, ``log`` with a line, ``progress`` with how far the run is.
        line: Id of the last log line up to here.
        value: The record, the line or the progress.
    """

    kind: Literal["state", "progress", "log"]
    line: int
    value: JobRecord | JobLogLine | Progress


class JobFollower:
    """Polls a job for events. The first poll returns how it is, later ones return what changed.

    It polls as the identity that constructs it.

    Args:
        jobs: Has the job.
        job_id: Which job.
        after: Leave out log lines up to this id.
    """

    def __init__(self, jobs: Jobs, job_id: int, after: int = 0) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._line = after
        self._seen: tuple[str, int] | None = None
        self._progress: tuple[int, Progress | None] | None = None
        # A stream is polled after its handler has returned, by whatever thread sends it.
        self._identity = current_identity()
        self.is_finished = False

    def poll(self) -> list[JobEvent]:
        """Return the events since the last poll, in order. The very last one is the ``state`` of the finished job.

        Raises:
            NotFoundError: There is no such job, or it was removed.
        """
        with acting_as(self._identity):
            # The record first: whatever is logged before a job is finished is there when the record says so.
            record = self._jobs.get(self._job_id)
            lines = self._read_lines()
        # From here on nothing fails, so no line that was read is lost.
        events: list[JobEvent] = []
        seen = (record.state, record.attempt)
        if seen != self._seen and not record.is_finished:
            self._seen = seen
            events.append(JobEvent("state", self._line, record))
        for line in lines:
            self._line = line.id
            events.append(JobEvent("log", line.id, line))
        progress = (record.attempt, record.progress)
        if record.progress is not None and progress != self._progress:
            self._progress = progress
            events.append(JobEvent("progress", self._line, record.progress))
        if record.is_finished:
            self.is_finished = True
            events.append(JobEvent("state", self._line, record))
        return events

    def _read_lines(self) -> list[JobLogLine]:
        lines: list[JobLogLine] = []
        while more := self._jobs.log_lines(self._job_id, lines[-1].id if lines else self._line):
            lines += more
        return lines
