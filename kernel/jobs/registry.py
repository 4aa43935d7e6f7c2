"""The jobs that plugins registered, validated as they register: parameters, lock, time limits and schedule."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec

from kernel.contracts import Job
from kernel.conversion import UNKNOWN, convert_fields, strip_nul, struct_fields
from kernel.errors import ConfigError, InvalidError, NotFoundError
from kernel.signatures import parameter_types
from kernel.suggestions import did_you_mean

# What the function of a job may take, by name.
_ARGUMENTS = ("run", "parameters")
# Switches a schedule off, in the configuration.
_OFF = "off"
_INTERVAL = re.compile(r"^every ([1-9][0-9]{0,6}) ?([smhd])$")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CRON_FIELDS = 5
# PostgreSQL indexes no text longer than 2,704 bytes.
_LOCK_MAX_BYTES = 2000

# A schedule is late if its job was due for longer than this, and is not queued.
_GRACE = timedelta(seconds=60)

Parameters = msgspec.Struct | Mapping[str, Any] | None


class RegisteredJob:
    """A job of a plugin, with what its function takes.

    Args:
        plugin: Who registered it.
        job: As the plugin returned it.

    Raises:
        TypeError: Its function takes something else, or its parameters are no Struct.
        ValueError: Its lock or time limits are wrong.
    """

    def __init__(self, plugin: str, job: Job) -> None:
        self.plugin = plugin
        self.job = job
        self.name = job.name
        self._arguments = _argument_types(job)
        self.parameters = _parameters_struct(self._arguments)
        _validate_lock(job, self.parameters)
        _validate_limits(job)

    def decode_parameters(self, given: Parameters) -> msgspec.Struct | None:
        """Decode parameters into the Struct that the job takes; None if it takes none.

        Raises:
            InvalidError: Some are wrong; names every one.
        """
        raw = msgspec.to_builtins(given if given is not None else {}, str_keys=True)
        if self.parameters is None:
            if raw:
                raise InvalidError(f"The job {self.name} has no parameters.", errors={name: [UNKNOWN] for name in raw})
            return None
        _, errors = convert_fields(raw, self.parameters)
        if errors:
            raise InvalidError(f"Some parameters are wrong: {', '.join(sorted(errors))}.", errors=errors)
        try:
            return msgspec.convert(raw, self.parameters)
        except msgspec.ValidationError as ex:
            raise InvalidError("The parameters contradict each other.", detail=str(ex)) from ex

    def lock_name(self, parameters: msgspec.Struct | None, account: int) -> str:
        """Return the name of the lock that the job holds while it runs with these parameters for an account.

        Raises:
            InvalidError: It would be too long to be found by; names the parameters in it.
        """
        values = {} if parameters is None else msgspec.structs.asdict(parameters)
        name: str = self.name if self.job.lock is None else strip_nul(self.job.lock.format_map(values))
        if self.job.per_account:
            name = f"account-{account}:{name}"
        if len(name.encode()) > _LOCK_MAX_BYTES:
            problem = f"Too long: the lock of the job would have more than {_LOCK_MAX_BYTES} bytes."
            raise InvalidError(errors={field: [problem] for field in sorted(_lock_fields(self.job))})
        return name

    def call(self, run: Any, parameters: msgspec.Struct | None) -> Any:
        """Call the job's function by name with what it takes; return its result."""
        values = {"run": run, "parameters": parameters}
        return self.job.run(**{name: values[name] for name in self._arguments})


class JobRegistry:
    """The jobs of one process, and their effective schedules.

    Args:
        overrides: Schedules from the configuration, by name of a job; ``off`` switches one off.
    """

    def __init__(self, overrides: Mapping[str, str]) -> None:
        self._overrides = overrides
        self._jobs: dict[str, RegisteredJob] = {}
        self.schedules: dict[str, Schedule] = {}

    def register(self, plugin: str, job: Job) -> None:
        """Add a job of a plugin.

        Raises:
            ValueError: Its function, schedule, lock or time limits are wrong; names the job.
        """
        try:
            registered = RegisteredJob(plugin, job)
            schedule = None if job.schedule is None else parse_schedule(job.schedule)
            if schedule is not None:
                registered.decode_parameters({})
        except (TypeError, ValueError, InvalidError) as ex:
            raise ValueError(f"job {job.name!r}: {ex}") from ex
        self._jobs[job.name] = registered
        if schedule is not None:
            self.schedules[job.name] = schedule

    def is_late(self, name: str, stored: tuple[str, datetime] | None, now: datetime) -> bool:
        """Tell whether the schedule of a job should have started it more than a minute ago, and has not.

        Args:
            name: The job; one without a schedule is never late.
            stored: The text of its schedule, and when it was due last, as the workers recorded; None if they have not.
            now: UTC.
        """
        schedule = self.schedules.get(name)
        if schedule is None or stored is None:
            return False
        text, last_due = stored
        # Workers have not seen a schedule that was changed: it begins with its next time.
        return text == schedule.text and last_due < schedule.latest(now.astimezone(UTC) - _GRACE)

    def unregister(self, plugin: str) -> None:
        """Remove the jobs of a plugin that is quarantined."""
        self._jobs = {name: job for name, job in self._jobs.items() if job.plugin != plugin}
        self.schedules = {name: schedule for name, schedule in self.schedules.items() if name in self._jobs}

    def apply_overrides(self, absent: Collection[str]) -> None:
        """Apply the schedules of the configuration, once every job is registered.

        Args:
            absent: Plugins that are left out; schedules of their jobs are ignored.

        Raises:
            ConfigError: Some name no job, or cannot be parsed, or their job needs parameters.
        """
        problems: list[str] = []
        for name, text in self._overrides.items():
            if name in self._jobs:
                problems += self._override(name, text)
            elif name.partition(".")[0] not in absent:
                known = ", ".join(sorted(self._jobs)) or "none"
                hint = did_you_mean(name, self._jobs)
                problems.append(f"jobs.schedules: there is no job {name!r}; there are: {known}{hint}")
        if problems:
            raise ConfigError(problems)

    def _override(self, name: str, text: str) -> list[str]:
        if text == _OFF:
            self.schedules.pop(name, None)
            return []
        try:
            self._jobs[name].decode_parameters({})
            self.schedules[name] = parse_schedule(text)
        except (ValueError, InvalidError) as ex:
            return [f"jobs.schedules: {name}: {ex}"]
        return []

    def get(self, name: str) -> RegisteredJob:
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
        return self._jobs[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every job."""
        return tuple(sorted(self._jobs))

    @property
    def service_names(self) -> tuple[str, ...]:
        """The name of every job of the service itself, which does not run for the account that starts it."""
        return tuple(each.name for each in self.all() if not each.job.per_account)

    def all(self) -> tuple[RegisteredJob, ...]:
        """Return every job, by name."""
        return tuple(self._jobs[name] for name in self.names)


def _argument_types(job: Job) -> dict[str, Any]:
    types = parameter_types(job.run, _ARGUMENTS)
    return {name: types[name] for name in _ARGUMENTS if name in types}


def _parameters_struct(arguments: Mapping[str, Any]) -> type[msgspec.Struct] | None:
    if "parameters" not in arguments:
        return None
    kind = arguments["parameters"]
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        shown = "nothing" if kind is Any else f"{kind!r:.80}"
        raise TypeError(f"`parameters` of its function must be annotated with a Struct, not with {shown}")
    return kind


def _validate_lock(job: Job, parameters: type[msgspec.Struct] | None) -> None:
    known = set() if parameters is None else {field.name for field in struct_fields(parameters).values()}
    unknown = _lock_fields(job) - known
    if unknown:
        raise ValueError(f"its lock names parameters it does not have: {', '.join(sorted(unknown))}")


def _lock_fields(job: Job) -> set[str]:
    """Return the parameters that the lock of a job names."""
    return {field for _, field, _, _ in string.Formatter().parse(job.lock or "") if field is not None}


def _validate_limits(job: Job) -> None:
    if not job.timeout_s > 0 or job.retries < 0 or job.retry_wait_s < 0:
        raise ValueError("time limits and retries must not be negative, and timeout_s not 0")
    if job.soft_timeout_s is not None and not 0 < job.soft_timeout_s < job.timeout_s:
        raise ValueError(f"soft_timeout_s must be above 0 and below timeout_s, {job.timeout_s:g}")


# --- schedules --------------------------------------------------------------------------------------------------------


class Schedule(Protocol):
    """When a job is due, in UTC."""

    text: str

    def latest(self, now: datetime) -> datetime:
        """Return the latest due time that is not after now."""

    def following(self, now: datetime) -> datetime:
        """Return the first due time after now."""


class _Interval:
    """Due at every multiple of an interval since 1970, so that all workers agree on when."""

    def __init__(self, text: str, interval_s: int) -> None:
        self.text = text
        self._interval_s = interval_s

    def latest(self, now: datetime) -> datetime:
        return datetime.fromtimestamp(int(now.timestamp()) // self._interval_s * self._interval_s, UTC)

    def following(self, now: datetime) -> datetime:
        return self.latest(now) + timedelta(seconds=self._interval_s)


class _Cron:
    """Due as cron would be."""

    def __init__(self, text: str) -> None:
        # Imported where a schedule needs it: most processes have none.
        from croniter import croniter

        if len(text.split()) != _CRON_FIELDS or not croniter.is_valid(text):
            raise ValueError(f"{text!r} is neither a cron expression of five fields nor such as 'every 15m'")
        self.text = text
        self._croniter = croniter

    def latest(self, now: datetime) -> datetime:
        # get_prev excludes its start time.
        due: datetime = self._croniter(self.text, now + timedelta(microseconds=1)).get_prev(datetime)
        return due

    def following(self, now: datetime) -> datetime:
        due: datetime = self._croniter(self.text, now).get_next(datetime)
        return due


def parse_schedule(text: str) -> Schedule:
    """Parse a schedule.

    Args:
        text: A cron expression of five fields, or an interval such as ``every 15m`` (s, m, h, d).

    Raises:
        ValueError: It is neither, or never due.
    """
    interval = _INTERVAL.fullmatch(text.strip())
    if interval:
        return _Interval(text, int(interval[1]) * _UNIT_S[interval[2]])
    schedule = _Cron(text.strip())
    try:
        schedule.following(datetime.now(UTC))
    except ValueError as ex:
        raise ValueError(f"{text!r} is never due") from ex
    return schedule
