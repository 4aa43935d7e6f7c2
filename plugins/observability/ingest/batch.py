"""Take a batch in: decode, prepare, write, and say what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from kernel import InvalidError
from plugins.observability.ids import make_id
from plugins.observability.ingest.decoding import Batch, decode_batch
from plugins.observability.ingest.identity import derived_tails, single_tail
from plugins.observability.ingest.ledger import LOCAL_KEY
from plugins.observability.ingest.preparing import prepare
from plugins.observability.ingest.writing import EventWriter, RefusedError
from plugins.observability.model import EventIn, IngestQuery, IngestResult, ItemError, Messages
from plugins.observability.settings import ObservabilitySettings
from plugins.observability.templates import Templates


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
        templates: Applied to endpoints; None leaves them as they were sent.
    """

    def __init__(
        self,
        settings: ObservabilitySettings,
        writer: EventWriter,
        now: Callable[[], datetime],
        templates: Templates | None = None,
    ) -> None:
        self._limits = Limits(settings.ingest_batch_size, settings.ingest_max_events, settings.ingest_max_errors)
        self._writer = writer
        self._now = now
        self._templates = templates

    def take(self, content: bytes, query: IngestQuery, key: str | None = None) -> IngestResult:
        """Store the valid items of a body in one transaction.

        Args:
            content: JSON.
            query: Lowers limits, and says whether all items must be valid.
            key: The request's ``Idempotency-Key``: with it, items that were stored before are not stored again.

        Raises:
            InvalidError: ``strict``, and an item is invalid: nothing is stored. Or a parameter is above its setting.
            MalformedError: The body is no JSON.
            TooLargeError: It has more than ``max_events`` items.
            UnavailableError: The database is away: nothing is stored, or, if it went away at the very end, all of it.
        """
        limits = self.lowered(query)
        return self.store(decode_batch(content, limits.max_events, self._now()), limits, strict=query.strict, key=key)

    def store(
        self,
        batch: Batch,
        limits: Limits,
        *,
        strict: bool = False,
        key: str | None = None,
        seen: Counter[bytes] | None = None,
    ) -> IngestResult:
        """Store the valid items of a decoded batch in one transaction; arguments and errors as ``take``.

        With ``seen``, the batch is one of several under the key; see ``derived_tails``.
        """
        prepared, late_errors = prepare(batch.indexes, batch.events, self._now())
        errors = batch.errors + late_errors
        if strict and errors:
            raise self._refused(errors, batch.sent, limits)
        try:
            written = self._writer.write(
                prepared,
                sender=LOCAL_KEY,
                rejected=errors,
                batch_size=limits.batch_size,
                strict=strict,
                tails=derived_tails(prepared, key, seen=seen),
                templates=self._templates,
            )
        except RefusedError as ex:
            raise self._refused(ex.errors, batch.sent, limits) from ex
        errors = sorted([*errors, *written.errors], key=lambda error: error.index)
        shown = errors[: limits.max_errors]
        return IngestResult(written.inserted, written.duplicates, len(errors), shown, written.capped)

    def take_one(self, event: EventIn, key: str | None = None) -> tuple[UUID, bool]:
        """Store one valid event.

        Args:
            event: From ``validation``.
            key: The request's ``Idempotency-Key``.

        Returns:
            Its id, and whether it is new: False if it was stored before.

        Raises:
            InvalidError: The database cannot store its tags.
            UnavailableError: The database is away.
        """
        prepared, _ = prepare([0], [event], self._now())
        tail = single_tail(prepared, key)
        try:
            is_new = self._writer.write_one(prepared, tail, LOCAL_KEY, self._templates)
        except RefusedError as ex:
            raise self.reject_one(ex.errors[0].errors) from ex
        return make_id(prepared.times_us[0] // 1000, tail), is_new

    def reject_one(self, messages: Messages) -> InvalidError:
        """Tell the ledger of an invalid event; return what its sender is told."""
        self._writer.reject(LOCAL_KEY, [ItemError(0, messages)])
        return InvalidError(f"Some fields are wrong: {', '.join(messages)}.", errors=messages)

    def _refused(self, errors: Sequence[ItemError], received: int, limits: Limits) -> InvalidError:
        self._writer.reject(LOCAL_KEY, errors, received)
        return _strict(errors, received, limits)

    def lowered(self, query: IngestQuery) -> Limits:
        """Return the limits of a request: its parameters, which may only lower the settings.

        Raises:
            InvalidError: A parameter is above its setting.
        """
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


def _strict(errors: Sequence[ItemError], received: int, limits: Limits) -> InvalidError:
    shown = sorted(errors, key=lambda error: error.index)[: limits.max_errors]
    by_field = {f"{error.index}.{field}": text for error in shown for field, text in error.errors.items()}
    return InvalidError(
        f"{len(errors)} of {received} events are invalid; nothing was stored.",
        errors=by_field,
        extra={"inserted": 0, "duplicates": 0, "rejected": received},
    )
