"""Take a batch in: decode, prepare, write, and say what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from kernel import InvalidError
from plugins.observability.ingest.decoding import decode_batch
from plugins.observability.ingest.preparing import prepare
from plugins.observability.ingest.writing import EventWriter, RefusedError
from plugins.observability.model import IngestQuery, IngestResult, ItemError
from plugins.observability.settings import ObservabilitySettings


class Limits(msgspec.Struct, frozen=True):
    """The limits of one request."""

    batch_size: int
    max_events: int
    max_errors: int


class Ingest:
    """Takes batches of events in.

    Args:
        settings: The limits that parameters may lower.
        writer: Stores events.
        now: The clock.
    """

    def __init__(self, settings: ObservabilitySettings, writer: EventWriter, now: Callable[[], datetime]) -> None:
        self._limits = Limits(settings.ingest_batch_size, settings.ingest_max_events, settings.ingest_max_errors)
        self._writer = writer
        self._now = now

    def take(self, content: bytes, query: IngestQuery) -> IngestResult:
        """Store the valid items of a body in one transaction.

        Raises:
            InvalidError: ``strict``, and an item is invalid: nothing is stored. Or a parameter is above its setting.
            MalformedError: The body is no JSON.
            TooLargeError: It has more than ``max_events`` items.
            UnavailableError: The database is away: nothing is stored.
        """
        limits = self._lowered(query)
        now = self._now()
        batch = decode_batch(content, limits.max_events, now)
        prepared, late_errors = prepare(batch.indexes, batch.events, now)
        errors = batch.errors + late_errors
        if query.strict and errors:
            raise _strict(errors, limits)
        try:
            written = self._writer.write(prepared, batch_size=limits.batch_size, strict=query.strict)
        except RefusedError as ex:
            raise _strict(ex.errors, limits) from ex
        errors = sorted([*errors, *written.errors], key=lambda error: error.index)
        return IngestResult(written.inserted, len(errors), errors[: limits.max_errors])

    def _lowered(self, query: IngestQuery) -> Limits:
        values: dict[str, int] = {}
        errors: dict[str, list[str]] = {}
        for name in Limits.__struct_fields__:
            setting = getattr(self._limits, name)
            given = getattr(query, name)
            if given is not None and given > setting:
                errors[name] = [f"Expected at most {setting}, got {given}. A parameter may only lower the setting."]
            values[name] = setting if given is None else given
        if errors:
            raise InvalidError(f"Some parameters are wrong: {', '.join(errors)}.", errors=errors)
        return Limits(**values)


def _strict(errors: Sequence[ItemError], limits: Limits) -> InvalidError:
    shown = sorted(errors, key=lambda error: error.index)[: limits.max_errors]
    by_field = {f"{error.index}.{field}": text for error in shown for field, text in error.errors.items()}
    return InvalidError(
        f"{len(errors)} events are invalid; nothing was stored.",
        errors=by_field,
        extra={"inserted": 0, "rejected": len(errors)},
    )
