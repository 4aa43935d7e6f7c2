"""Settings of a reporter: from arguments, else from variables ``TIERCEL_CLIENT_...``, else defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

PREFIX = "TIERCEL_CLIENT_"
# What the service reads as one batch: 100,000 events and 64 MiB by default, less where an operator or a proxy says so.
_BATCH_MAX_BYTES_MAX = 32 * 1024 * 1024
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_SPOOL_WRITES = ("batch", "event")


@dataclass(frozen=True)
class Settings:
    """How a reporter batches, sends, retries and spools.

    Args:
        url: Of the service, such as ``https://logs.example``. Empty: nothing is reported.
        key: An API key that may send events.
        service: The name under which requests are reported.
        site: Sent as ``X-Site``, for keys of several sites.
        batch_max_events: The most events of a request.
        batch_max_bytes: The most bytes of a request, before compression.
        flush_interval_s: How long an event waits for others until its batch is sent.
        queue_max_events: The most events in memory; further ones are dropped.
        queue_max_bytes: The most bytes of events in memory.
        event_max_bytes: A longer event loses its tags.
        timeout_s: How long connecting, and each read of the answer, may take.
        backoff_min_s: Upper bound of the first pause after a failure; it doubles with each further failure.
        backoff_max_s: Upper bound of all pauses that the service does not ask for itself.
        halt_s: Pause after an answer that repeating does not change, such as 401.
        exit_timeout_s: How long the process may take at its end to send what is left.
        warning_interval_s: At most one warning on standard error in this time.
        spool_dir: Directory of the spool; empty for none.
        spool_write: ``batch``: events wait in memory up to ``flush_interval_s`` until they are in the spool; ``event``:
            each is written before ``report`` returns.
        spool_max_bytes: The most bytes of the spool, of all processes that share it.
        spool_fsync: Whether each write is forced to the disk, so that it outlives a loss of power.

    Raises:
        ValueError: A value is out of its range.
    """

    url: str = ""
    key: str = field(default="", repr=False)
    service: str = ""
    site: str = ""
    batch_max_events: int = 500
    batch_max_bytes: int = 512 * 1024
    flush_interval_s: float = 2.0
    queue_max_events: int = 10_000
    queue_max_bytes: int = 8 * 1024 * 1024
    event_max_bytes: int = 32 * 1024
    timeout_s: float = 10.0
    backoff_min_s: float = 0.5
    backoff_max_s: float = 60.0
    halt_s: float = 60.0
    exit_timeout_s: float = 5.0
    warning_interval_s: float = 60.0
    spool_dir: str = ""
    spool_write: str = "batch"
    spool_max_bytes: int = 100 * 1024 * 1024
    spool_fsync: bool = False

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)!r}")
        if self.spool_write not in _SPOOL_WRITES:
            raise ValueError(f"spool_write: expected one of {', '.join(_SPOOL_WRITES)}, got {self.spool_write!r}")
        if not self.event_max_bytes <= self.batch_max_bytes <= _BATCH_MAX_BYTES_MAX:
            raise ValueError(f"batch_max_bytes: expected event_max_bytes to {_BATCH_MAX_BYTES_MAX}")
        if self.url:
            self._validate_destination()

    def _validate_destination(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("url: expected http://HOST or https://HOST, with a port and a path if need be")
        if parts.username is not None:
            raise ValueError("url: credentials belong into the key")
        if not self.service.strip() or len(self.service) > 100:
            raise ValueError("service: expected a name of 1 to 100 characters")
        for name in ("key", "site"):
            value = getattr(self, name)
            # The value is not shown: it may be a key.
            if not value.isascii() or (value and not value.isprintable()):
                raise ValueError(f"{name}: expected printable characters of ASCII")

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Return settings from arguments, and from variables for what these leave out.

        Args:
            environ: The variables; those of the process by default.
            given: Values by name; None stands for one that is not given.

        Raises:
            ValueError: A value cannot be read, or is out of its range.
            TypeError: There is no setting of a name.
        """
        variables = os.environ if environ is None else environ
        values = {name: value for name, value in given.items() if value is not None}
        for each in fields(cls):
            text = variables.get(PREFIX + each.name.upper())
            if each.name not in values and text is not None:
                values[each.name] = _convert(PREFIX + each.name.upper(), text, type(each.default))
        return cls(**values)


_NUMBERS = [each.name for each in fields(Settings) if type(each.default) in (int, float)]


def _convert(variable: str, text: str, kind: type) -> Any:
    """Return the text of a variable as a value of a type."""
    try:
        return _BOOLEANS[text.strip().lower()] if kind is bool else kind(text.strip())
    except (KeyError, ValueError):
        raise ValueError(f"{variable}: expected {kind.__name__}, got {text!r}") from None
