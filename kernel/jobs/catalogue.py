"""The jobs that plugins registered, looked at when they register: parameters, lock and schedule."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from kernel.contracts import Job
from kernel.conversion import UNKNOWN, convert_fields, struct_fields
from kernel.errors import ConfigError, InvalidError, NotFoundError
from kernel.jobs.schedules import Schedule, parse_schedule

OFF = "off"


class Catalogue:
    """The jobs of one process.

    Args:
        schedules: By name of a job, from the configuration; ``off`` switches one off.
    """

    def __init__(self, schedules: Mapping[str, str]) -> None:
        self._overrides = schedules
        self._jobs: dict[str, tuple[str, Job]] = {}
        self.schedules: dict[str, Schedule] = {}

    def install(self, owner: str, job: Job) -> None:
        """Add a job of a plugin.

        Raises:
            ValueError: Its schedule, parameters, lock or time limits are wrong.
        """
        try:
            _check(job)
            schedule = None if job.schedule is None else parse_schedule(job.schedule)
            if schedule is not None:
                decode_parameters(job, {})
        except (ValueError, InvalidError) as ex:
            raise ValueError(f"job {job.name!r}: {ex}") from ex
        self._jobs[job.name] = (owner, job)
        if schedule is not None:
            self.schedules[job.name] = schedule

    def withdraw(self, owner: str) -> None:
        """Forget the jobs of a plugin, because it is quarantined."""
        self._jobs = {name: owned for name, owned in self._jobs.items() if owned[0] != owner}
        self.schedules = {name: schedule for name, schedule in self.schedules.items() if name in self._jobs}

    def refuse_unknown(self, absent: Collection[str]) -> None:
        """Look at the schedules of the configuration, once every job is here.

        Args:
            absent: Plugins that are left out: what the configuration says of their jobs is not looked at.

        Raises:
            ConfigError: Some name no job, or cannot be parsed, or their job needs parameters.
        """
        problems: list[str] = []
        for name, text in self._overrides.items():
            if name in self._jobs:
                problems += self._override(name, text)
            elif name.partition(".")[0] not in absent:
                known = ", ".join(sorted(self._jobs)) or "none"
                problems.append(f"jobs.schedules: there is no job {name!r}; there are: {known}")
        if problems:
            raise ConfigError(problems)

    def _override(self, name: str, text: str) -> list[str]:
        if text == OFF:
            self.schedules.pop(name, None)
            return []
        try:
            decode_parameters(self._jobs[name][1], {})
            self.schedules[name] = parse_schedule(text)
        except (ValueError, InvalidError) as ex:
            return [f"jobs.schedules: {name}: {ex}"]
        return []

    def find(self, name: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: There is none of that name; names those there are.
        """
        if name not in self._jobs:
            known = sorted(self._jobs)
            raise NotFoundError(
                f"Unknown job {name!r:.80}.",
                detail=f"there are: {', '.join(known) or 'none'}",
                extra={"available_jobs": known},
            )
        return self._jobs[name][1]

    def owner(self, name: str) -> str:
        """Return the plugin that registered a job that is here."""
        return self._jobs[name][0]

    def all(self) -> tuple[Job, ...]:
        """Return every job, by name."""
        return tuple(self._jobs[name][1] for name in sorted(self._jobs))


def decode_parameters(job: Job, given: msgspec.Struct | Mapping[str, Any] | None) -> msgspec.Struct | None:
    """Return the parameters of a job as its Struct; None if it has none.

    Raises:
        InvalidError: Some are wrong; names every one.
    """
    raw = msgspec.to_builtins(given if given is not None else {}, str_keys=True)
    kind = job.parameters
    if kind is None:
        if raw:
            raise InvalidError(f"The job {job.name} has no parameters.", errors={name: [UNKNOWN] for name in raw})
        return None
    _, errors = convert_fields(raw, kind)
    if errors:
        raise InvalidError(f"Some parameters are wrong: {', '.join(sorted(errors))}.", errors=errors)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as ex:
        raise InvalidError("The parameters contradict each other.", detail=str(ex)) from ex


def lock_of(job: Job, parameters: msgspec.Struct | None) -> str:
    """Return the lock of a job with these parameters."""
    if job.lock is None:
        return job.name
    # PostgreSQL's text has no null characters.
    return job.lock.format_map({} if parameters is None else msgspec.structs.asdict(parameters)).replace("\x00", "")


def _check(job: Job) -> None:
    kind: Any = job.parameters  # what a plugin wrote, whatever the annotation says
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise ValueError(f"parameters must be a Struct, not {kind!r:.80}")
    known = set() if kind is None else {field.name for field in struct_fields(kind).values()}
    used = {field for _, field, _, _ in string.Formatter().parse(job.lock or "") if field is not None}
    if used - known:
        raise ValueError(f"its lock names parameters it does not have: {', '.join(sorted(used - known))}")
    if not job.timeout_s > 0 or job.retries < 0 or job.retry_wait_s < 0:
        raise ValueError("time limits and retries must not be negative, and timeout_s not 0")
    if job.soft_timeout_s is not None and not 0 < job.soft_timeout_s < job.timeout_s:
        raise ValueError(f"soft_timeout_s must be above 0 and below timeout_s, {job.timeout_s:g}")
