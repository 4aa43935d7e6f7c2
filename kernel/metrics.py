"""Metrics for Prometheus: what is counted in every process of an instance, and how that becomes one answer.

Counting is cheap and local: a counter is a number in memory. Once a second, and before each scrape, a process writes
what has changed into files of its own, in the format and with the code of prometheus_client's multi-process mode. A
scrape, in whichever process, adds up the files of all of them. So no request waits for a file, and a process that is
killed loses what it has counted within the last second.

prometheus_client names its files by pid, so that they pile up as workers come and go. Here a process takes the first
**slot** that is free, such as ``web-1``, by locking a file, which ends with the process however that ends. The next one
in the slot goes on counting where the last one stopped. So there are as many files as there were processes at one time,
counters never go back, and a gauge whose slot nobody holds is that of a dead process, and left out.

What is the same whichever process tells it, such as the size of the database, is read at the scrape: see
``Metrics.add_source``.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from kernel.errors import DuplicateError
from kernel.files import open_own
from kernel.logging import Logger
from kernel.settings import MetricSettings
from kernel.threads import BackgroundThread, SharedCall

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# What plugins may import; the rest is for the kernel.
__all__ = ["Counter", "Reading"]

Role = Literal["web", "jobs"]
Kind = Literal["counter", "gauge", "histogram"]
# Of each metric in each process. Beyond that, what is counted goes to one whose labels are all OTHER.
CHILDREN_MAX = 2000
OTHER = "__other__"
FLUSH_S = 1.0
_PREFIX = "tiercel_"
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_SLOTS_MAX = 10_000
# From 5 ms to 30 s, the time limit of requests.
DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Values of labels, in the order of their names.
Labels = tuple[str, ...]


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A value that is read, rather than counted as things happen.

    Args:
        name: As for ``PluginMetrics.counter``.
        documentation: As there.
        value: In base units: seconds, bytes.
        labels: Values by name.
        kind: ``counter`` for a total since the process started, or since ever.
    """

    name: str
    documentation: str
    value: float
    labels: Mapping[str, str] = {}
    kind: Literal["gauge", "counter"] = "gauge"


Read = Callable[[], Iterable[Reading]]
N = TypeVar("N", bound="_Instrument")


# --- instruments ------------------------------------------------------------------------------------------------------


class _Instrument:
    """What all kinds of metrics share: children by the values of their labels, at most ``CHILDREN_MAX``.

    Args:
        name: Whole, as Prometheus shows it.
        documentation: What it measures.
        labels: Names of its labels.
    """

    kind: Kind
    is_on = True

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(labels)
        self._lock = threading.Lock()
        self._children: dict[Labels, list[float]] = {}
        self._changed: set[Labels] = set()
        self._overflow = (OTHER,) * len(self.label_names)
        self._keys: dict[Labels, list[str]] = {}

    def _child(self, labels: Labels) -> list[float]:
        """Return the numbers of a child, which are about to change. The lock must be held."""
        child = self._children.get(labels)
        if child is None:
            if len(labels) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, got {labels!r:.200}")
            labels = labels if len(self._children) < CHILDREN_MAX else self._overflow
            child = self._children.setdefault(labels, self._zeros())
        self._changed.add(labels)
        return child

    def _zeros(self) -> list[float]:
        return [0.0]

    def take_changed(self) -> list[tuple[str, float]]:
        """Return the samples that have changed since the last call, by their keys in the files."""
        with self._lock:
            changed = [(labels, list(self._children[labels])) for labels in self._changed]
            self._changed.clear()
        return [pair for labels, values in changed for pair in zip(self._keys_of(labels), values, strict=True)]

    def forget_written(self) -> None:
        """Take every child as changed: what was to be written may not have been."""
        with self._lock:
            self._changed = set(self._children)

    def _keys_of(self, labels: Labels) -> list[str]:
        keys = self._keys.get(labels)
        if keys is None:
            from prometheus_client.mmap_dict import mmap_key

            keys = self._keys[labels] = [
                mmap_key(self.family, name, list(names), list(values), self.documentation)
                for name, names, values in self._samples_of(labels)
            ]
        return keys

    @property
    def family(self) -> str:
        """The name without what its samples add to it."""
        return self.name

    def _samples_of(self, labels: Labels) -> Iterable[tuple[str, Sequence[str], Labels]]:
        """Return name, names of labels and their values for each number of a child, in their order."""
        return [(self.name, self.label_names, labels)]

    def restart(self, stored: Mapping[str, float]) -> None:
        """Begin in this process with what the last one in its slot has counted, instead of what was counted before.

        Args:
            stored: Samples by their keys in the files.
        """
        with self._lock:
            # What is known before anything happens is 0, so that the first time is seen as an increase.
            known = set() if self.kind == "gauge" else {*self._children, *([] if self.label_names else [()])}
            found = known | self._labels_in(stored)
            self._children = {labels: [stored.get(key, 0.0) for key in self._keys_of(labels)] for labels in found}
            self._changed = known

    def _labels_in(self, stored: Mapping[str, float]) -> set[Labels]:
        found: set[Labels] = set()
        for key in stored:
            family, _, labels, _ = msgspec.json.decode(key)
            labels.pop("le", None)
            if family == self.family and labels.keys() == set(self.label_names):
                found.add(tuple(labels[name] for name in self.label_names))
        return found


class Counter(_Instrument):
    """A number that only grows."""

    kind = "counter"

    @property
    def family(self) -> str:
        """The name without ``_total``."""
        return self.name.removesuffix("_total")

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Add to it.

        Args:
            labels: Values of its labels, in order.
            by: How much, not negative.

        Raises:
            ValueError: It is negative, or there are more or fewer labels.
        """
        if not self.is_on:
            return
        if by < 0:
            raise ValueError(f"{self.name} cannot decrease, got {by}")
        with self._lock:
            self._child(labels)[0] += by


class Gauge(_Instrument):
    """A number that goes up and down; that of an instance is the sum over its processes."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set it.

        Args:
            value: The number.
            labels: Values of its labels, in order.
        """
        if self.is_on:
            with self._lock:
                self._child(labels)[0] = value


class Histogram(_Instrument):
    """How many values were at most as large as each of some bounds, and their sum.

    Args:
        name: As for all instruments.
        documentation: As given.
        labels: As given.
        buckets: The bounds, ascending, without infinity.
    """

    kind = "histogram"

    def __init__(self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        super().__init__(name, documentation, labels)
        self._bounds = [float(bound) for bound in buckets]

    def observe(self, value: float, *labels: str) -> None:
        """Count a value.

        Args:
            value: In base units.
            labels: Values of its labels, in order.
        """
        self.observe_many((value,), *labels)

    def observe_many(self, values: Sequence[float], *labels: str) -> None:
        """Count some values; arguments as of ``observe``."""
        if self.is_on:
            bounds = self._bounds
            with self._lock:
                child = self._child(labels)
                for value in values:
                    child[bisect_left(bounds, value)] += 1
                child[-1] += sum(values)

    def _zeros(self) -> list[float]:
        # A count for each bound, one for values beyond all of them, and the sum.
        return [0.0] * (len(self._bounds) + 2)

    def _samples_of(self, labels: Labels) -> Iterable[tuple[str, Sequence[str], Labels]]:
        from prometheus_client.utils import floatToGoString

        for bound in (*self._bounds, float("inf")):
            yield f"{self.name}_bucket", (*self.label_names, "le"), (*labels, floatToGoString(bound))
        yield f"{self.name}_sum", self.label_names, labels


# --- the metrics of a process -----------------------------------------------------------------------------------------


class _Source(msgspec.Struct):
    """What is read at the scrape; see ``Metrics.add_source``."""

    prefix: str
    call: SharedCall[list[Reading]]
    max_age_s: float


class Metrics:
    """The metrics of one process, and those of its instance. If they are off, nothing is kept or imported.

    Args:
        settings: Whether they are on, and how long the database is waited for.
        folder: Where the processes of this instance have their files.
        log: Gets a line if there can be no files.
    """

    def __init__(self, settings: MetricSettings, folder: Path, log: Logger) -> None:
        self.is_on = settings.enabled
        self._settings = settings
        self._folder = folder
        self._log = log
        self._instruments: dict[str, _Instrument] = {}
        self._process_reads: list[tuple[str, Read]] = []
        self._sources: dict[str, _Source] = {}
        self._before_flush: list[Callable[[], None]] = []
        self._base: dict[tuple[str, Labels], float] = {}
        self._slot: _Slot | None = None
        self._flush_lock = threading.Lock()
        self._is_failing = False
        self._thread = BackgroundThread("metrics", self._run)
        self._scrape_errors = self.counter(
            "tiercel_scrape_errors_total", "Scrapes that had to leave out what a source has to tell.", ("source",)
        )

    # --- measuring --------------------------------------------------------------------------------------------------

    def of(self, owner: str) -> PluginMetrics:
        """Return the metrics of a plugin, whose names begin with its own."""
        return PluginMetrics(self, f"{_PREFIX}{owner.replace('-', '_')}_")

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Return a counter by its whole name: a new one, or the one that there is."""
        if not name.endswith("_total"):
            raise ValueError(f"{name}: the name of a counter ends with _total")
        return self._instrument(Counter(name, documentation, labels))

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """Return a gauge by its whole name."""
        return self._instrument(Gauge(name, documentation, labels))

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = DURATION_BUCKETS_S,
    ) -> Histogram:
        """Return a histogram by its whole name."""
        return self._instrument(Histogram(name, documentation, labels, buckets))

    def _instrument(self, made: N) -> N:
        validate_name(made.name)
        known = self._instruments.get(made.name)
        if known is not None:
            if not isinstance(known, type(made)) or known.label_names != made.label_names:
                raise DuplicateError("metric", made.name, (str(known.label_names), str(made.label_names)))
            return known
        made.is_on = self.is_on
        if self._slot is not None:
            made.restart(self._slot.stored.get(made.kind, {}))
        self._instruments[made.name] = made
        return made

    def read_in_process(self, prefix: str, read: Read) -> None:
        """Read values of this process once a second; those of all processes are added up.

        Args:
            prefix: What the names begin with.
            read: Must be fast, and neither wait nor raise: one that raises is not called again.
        """
        self._process_reads.append((prefix, read))

    def before_flush(self, call: Callable[[], None]) -> None:
        """Call a function before what has changed is written, which may count what is still to be counted."""
        self._before_flush.append(call)

    def add_source(self, name: str, prefix: str, read: Read, max_age_s: float | None = None) -> None:
        """Read values of the whole instance at a scrape, such as those in the database.

        A source that fails, or takes longer than ``metrics.source_timeout_s``, is left out of the scrape:
        ``tiercel_source_up`` tells.

        Args:
            name: Of the source.
            prefix: What the names begin with.
            read: Called in a thread of its own; may wait for the database, and raise.
            max_age_s: What it returned is used again for this long; None for ``metrics.source_max_age_s``.

        Raises:
            DuplicateError: There is a source of this name.
        """
        if name in self._sources:
            raise DuplicateError("source of metrics", name, (self._sources[name].prefix, prefix))
        age_s = self._settings.source_max_age_s if max_age_s is None else max_age_s
        self._sources[name] = _Source(prefix, SharedCall(f"metrics-{name}", lambda: list(read())), age_s)

    # --- the process ------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Remove what an earlier run has left, unless a process of it still runs. Before those of this one start.

        While one does, counters must not go back: Prometheus would take what is left of them for an increase.
        """
        if not self.is_on:
            return
        # Now, so that the processes which are forked share what this imports.
        import prometheus_client.multiprocess
        import prometheus_client.openmetrics.exposition  # noqa: F401 - imported for the processes to come

        try:
            _ensure_folder(self._folder)
            with _locked(self._folder):
                slots = _list_slots(self._folder)
                if not any(_is_held(self._folder, slot) for slot in slots):
                    for slot in slots:
                        _remove_files(self._folder, slot)
        except OSError as ex:
            self._log.warning("metrics_unavailable", reason=str(ex))

    def open(self, role: Role) -> None:
        """Take a slot, and begin to write. After the fork.

        Args:
            role: What this process does.
        """
        if not self.is_on:
            return
        try:
            _ensure_folder(self._folder)
            self._slot = _Slot(self._folder, role)
        except OSError as ex:
            self._log.warning("metrics_unavailable", reason=str(ex))
            return
        for instrument in self._instruments.values():
            instrument.restart(self._slot.stored.get(instrument.kind, {}))
        self._base.clear()
        self._thread.start()

    def close(self) -> None:
        """Write what has changed, and leave the slot to another process."""
        if self._slot is None:
            return
        self._thread.stop()
        self.flush()
        self._before_flush.clear()
        with self._flush_lock:
            slot, self._slot = self._slot, None
        slot.close()

    @property
    def process(self) -> str:
        """The name of this process among those of its instance, such as ``web-0``; empty before it is open."""
        return "" if self._slot is None else self._slot.name

    def flush(self) -> None:
        """Write what has changed into the files of this process."""
        with self._flush_lock:
            slot = self._slot
            if slot is None:
                return
            for call in self._before_flush:
                call()
            for each in list(self._process_reads):
                self._read_process(*each)
            try:
                for instrument in list(self._instruments.values()):
                    slot.write(instrument.kind, instrument.take_changed())
            except OSError as ex:
                self._note_failure(str(ex))
            else:
                self._is_failing = False

    def _note_failure(self, reason: str) -> None:
        """Say once that metrics cannot be written, and write all of them the next time."""
        for instrument in self._instruments.values():
            instrument.forget_written()
        if not self._is_failing:
            self._is_failing = True
            self._log.warning("metrics_not_written", reason=reason)

    def _read_process(self, prefix: str, read: Read) -> None:
        try:
            for reading in read():
                self._note(prefix, reading)
        except Exception:
            # Once, not every second.
            self._process_reads.remove((prefix, read))
            self._log.exception("metrics_not_read", prefix=prefix)

    def _note(self, prefix: str, reading: Reading) -> None:
        name, names, labels = prefix + reading.name, tuple(reading.labels), tuple(reading.labels.values())
        instrument = self._instruments.get(name)
        if instrument is None:
            instrument = (self.counter if reading.kind == "counter" else self.gauge)(name, reading.documentation, names)
        with instrument._lock:
            child = instrument._child(labels)
            # What earlier processes have counted in this slot comes on top.
            base = self._base.setdefault((name, labels), child[0]) if reading.kind == "counter" else 0.0
            child[0] = base + reading.value

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(FLUSH_S):
            try:
                self.flush()
            except Exception:
                self._log.exception("metrics_not_written")

    # --- scraping ---------------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of the instance: of all its processes, and of all sources."""
        sources = self._read_sources()
        self.flush()
        if self._slot is not None:
            yield from _merge(_live_files(self._folder, self._slot.name))
        yield from sources

    def collect_from_outside(self) -> Iterator[Metric]:
        """As ``collect``, in a process that measures nothing itself: a command.

        Raises:
            OSError: The files of the instance cannot be read.
        """
        if self._folder.is_dir():
            yield from _merge(_live_files(self._folder))
        yield from self._read_sources()

    def _read_sources(self) -> list[Metric]:
        due = [source for source in self._sources.values() if source.call.age_s > source.max_age_s]
        for source in due:
            source.call.start()
        families: dict[str, Metric] = {}
        for name, source in self._sources.items():
            readings = source.call.wait(self._settings.source_timeout_s)
            if readings is None:
                self._scrape_errors.inc(name)
            for reading in readings or ():
                _add_reading(families, source.prefix, reading)
            text = "Whether what a source has to tell is in this scrape."
            up = Reading("source_up", text, float(readings is not None), {"source": name})
            _add_reading(families, _PREFIX, up)
        return list(families.values())


class PluginMetrics:
    """The metrics of one plugin. Their names begin with ``tiercel_`` and its own, unless it is the kernel.

    Labels must have few values, such as names of routes: no ids of users, accounts or keys. Beyond 2,000 combinations,
    what is counted goes to one whose labels are all ``__other__``.

    Args:
        metrics: Those of the process.
        prefix: What names begin with.
    """

    def __init__(self, metrics: Metrics, prefix: str) -> None:
        self._metrics = metrics
        self._prefix = prefix

    @property
    def is_on(self) -> bool:
        """Whether anything is kept of what is counted."""
        return self._metrics.is_on

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Return a counter.

        Example::

            orders = services.metrics.counter("orders_total", "Orders.", labels=("kind",))
            orders.inc("gift")

        Args:
            name: Without the prefix; ends with ``_total``, after the unit if there is one: ``sent_bytes_total``.
            documentation: What it counts, a sentence.
            labels: Names of its labels.

        Raises:
            ValueError: The name is none for a counter.
            DuplicateError: There is a metric of this name with other labels.
        """
        return self._metrics.counter(self._prefix + name, documentation, labels)

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """Return a gauge: a number of this process, to which those of the others are added."""
        return self._metrics.gauge(self._prefix + name, documentation, labels)

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = DURATION_BUCKETS_S,
    ) -> Histogram:
        """Return a histogram.

        Args:
            name: Without the prefix; ends with the unit: ``delivery_seconds``.
            documentation: What it measures, a sentence.
            labels: Names of its labels.
            buckets: Upper bounds, ascending.
        """
        return self._metrics.histogram(self._prefix + name, documentation, labels, buckets)

    def read_in_process(self, read: Read) -> None:
        """Read values of this process once a second; those of all processes are added up.

        Args:
            read: Must be fast, and neither wait nor raise.
        """
        self._metrics.read_in_process(self._prefix, read)

    def add_source(self, name: str, read: Read, max_age_s: float | None = None) -> None:
        """Read values of the whole instance at a scrape, such as those in the database; see ``Metrics.add_source``."""
        self._metrics.add_source(name, self._prefix, read, max_age_s)


def validate_name(name: str) -> None:
    """Check the name of a metric.

    Raises:
        ValueError: It is none.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"metric {name!r:.100}: expected lower case letters, digits and single underscores")


def _add_reading(families: dict[str, Metric], prefix: str, reading: Reading) -> None:
    from prometheus_client.metrics_core import Metric

    name = prefix + reading.name
    family = name.removesuffix("_total") if reading.kind == "counter" else name
    if family not in families:
        families[family] = Metric(family, reading.documentation, reading.kind)
    families[family].add_sample(name, dict(reading.labels), reading.value)


# --- the files of an instance -----------------------------------------------------------------------------------------

# As prometheus_client names them: the kind, for gauges how they are merged, and instead of a pid the slot.
_FILE_MIN_BYTES = 64 * 1024
_FILES: Mapping[Kind, str] = {"counter": "counter", "gauge": "gauge_livesum", "histogram": "histogram"}


class _Slot:
    """The place of a process among those of its instance, and its files.

    Args:
        folder: Of the instance.
        role: What the process does.

    Attributes:
        name: Such as ``web-0``.
        stored: What the last process in this slot has counted: samples by their keys, by kind.
    """

    def __init__(self, folder: Path, role: Role) -> None:
        self._folder = folder
        self._files: dict[Kind, Any] = {}
        with _locked(folder):
            self.name, self._lock = _take_slot(folder, role)
            # Those of the last process are nobody's any more.
            (folder / f"{_FILES['gauge']}_{self.name}.db").unlink(missing_ok=True)
        self.stored: dict[Kind, dict[str, float]] = {
            kind: self._read(folder / f"{_FILES[kind]}_{self.name}.db") for kind in ("counter", "histogram")
        }

    def _read(self, file: Path) -> dict[str, float]:
        from prometheus_client.mmap_dict import MmapedDict

        try:
            return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file))}
        except FileNotFoundError:
            return {}
        except Exception:
            # What a process that was killed while it wrote has left is of no use to anybody.
            file.unlink(missing_ok=True)
            return {}

    def write(self, kind: Kind, samples: Iterable[tuple[str, float]]) -> None:
        """Write samples by their keys.

        Raises:
            OSError: The disk is full, or the folder is gone.
        """
        for key, value in samples:
            if kind not in self._files:
                from prometheus_client.mmap_dict import MmapedDict

                path = self._folder / f"{_FILES[kind]}_{self.name}.db"
                _allocate(path, _FILE_MIN_BYTES)
                self._files[kind] = MmapedDict(str(path))
            file = self._files[kind]
            if file._used + _entry_max_bytes(key) > file._capacity:
                # The size to which it is about to grow.
                _allocate(Path(file._fname), 2 * file._capacity)
            file.write_value(key, value, 0.0)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        os.close(self._lock)


def _allocate(path: Path, size: int) -> None:
    """Make a file that has its blocks on the disk: where a hole of a mapped file cannot get one, the process is killed.

    Raises:
        OSError: The disk is full.
    """
    with path.open("ab") as file:
        if file.tell() < size:
            os.posix_fallocate(file.fileno(), 0, size)


def _entry_max_bytes(key: str) -> int:
    """Return the most bytes that a new sample takes: a length, its key, padding, and two numbers."""
    return 4 + len(key.encode()) + 8 + 16


def _ensure_folder(folder: Path) -> None:
    """Make a folder for this user alone.

    Raises:
        OSError: It cannot be made, or belongs to somebody else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not a directory of this user")
    folder.chmod(0o700)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let no other process take a slot, or look which are held, in the block."""
    descriptor = open_own(folder / "slots.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _take_slot(folder: Path, role: Role) -> tuple[str, int]:
    for number in range(_SLOTS_MAX):
        name = f"{role}-{number}"
        descriptor = open_own(folder / f"{name}.slot", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return name, descriptor
    raise OSError(f"more than {_SLOTS_MAX} processes use {folder}")


def _is_held(folder: Path, slot: str) -> bool:
    """Tell whether a process has a slot. Not for the own one: the answer would be the same for other reasons."""
    try:
        descriptor = open_own(folder / f"{slot}.slot", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _live_files(folder: Path, own: str | None = None) -> list[str]:
    """Return the files of all processes, without the gauges of those that have ended.

    Args:
        folder: Of the instance.
        own: The slot of this process, if it has one.
    """
    files: list[str] = []
    with _locked(folder):
        for slot in _list_slots(folder):
            is_live = slot == own or _is_held(folder, slot)
            kinds: tuple[Kind, ...] = ("counter", "gauge", "histogram") if is_live else ("counter", "histogram")
            paths = (folder / f"{_FILES[kind]}_{slot}.db" for kind in kinds)
            files += [str(path) for path in paths if path.exists()]
    return files


def _list_slots(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.slot"))


def _remove_files(folder: Path, slot: str) -> None:
    for path in (*(folder / f"{name}_{slot}.db" for name in _FILES.values()), folder / f"{slot}.slot"):
        with suppress(FileNotFoundError):
            path.unlink()


def _merge(files: Sequence[str]) -> Iterable[Metric]:
    """Add up the files of all processes, as prometheus_client does."""
    from prometheus_client.multiprocess import MultiProcessCollector

    try:
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)
    except Exception:
        # One that cannot be read must not hide the others. Its process finds out, and makes it anew, when it starts.
        merged = MultiProcessCollector.merge([file for file in files if _is_readable(file)])
    return merged


def _is_readable(file: str) -> bool:
    from prometheus_client.mmap_dict import MmapedDict

    try:
        for _ in MmapedDict.read_all_values_from_file(file):
            pass
    except Exception:
        return False
    return True
