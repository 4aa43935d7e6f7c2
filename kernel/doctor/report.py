"""Gather the parts of a report, each by itself and within a time limit, and write it as one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg

from kernel.conversion import escape_json
from kernel.db.failures import describe
from kernel.doctor.privacy import scrub
from kernel.errors import ConfigError
from kernel.package_names import own_version
from kernel.threads import SharedCall

# Changes if somebody who reads reports with a program would have to change it.
FORMAT = 1
_FILE_MODE = 0o600


class Part(msgspec.Struct, frozen=True):
    """A part of a report.

    Args:
        name: Of the part; ``docs/operations/troubleshooting.md`` lists them.
        read: Returns what can be written as JSON: in a table, each row is a dictionary. May raise, or hang.
        needs_database: Whether it is left out once the database was found not to answer.
    """

    name: str
    read: Callable[[], Any]
    needs_database: bool = False


class PartResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a part.

    Args:
        status: ``failed`` if there is a reason instead of content.
        took_ms: How long it took, or how long it was waited for.
        reason: Why there is no content.
        content: What was read.
    """

    status: Literal["ok", "failed"]
    took_ms: float
    reason: str | None = None
    content: Any = None


def gather(parts: Sequence[Part], timeout_s: float) -> Iterator[tuple[str, PartResult]]:
    """Read parts one after another; yield the name of each, and what became of it.

    A database that does not answer once is not asked again: it would cost the time limit for each part.

    Args:
        parts: In the order of the report.
        timeout_s: Of each part. A part that hangs goes on hanging in its thread, which ends with the process.
    """
    database_failed: str | None = None
    for part in parts:
        if part.needs_database and database_failed is not None:
            yield part.name, PartResult("failed", 0.0, f"left out: {database_failed}")
            continue
        call = SharedCall(f"doctor-{part.name}", part.read)
        call.start()
        if not call.is_over(timeout_s):
            reason = f"no answer within {timeout_s:g} s"
            error: Exception | None = TimeoutError(reason)
        else:
            error = call.error
            reason = "" if error is None else describe_error(error)
        took_ms = round(call.took_s * 1000, 1)
        if error is None:
            yield part.name, PartResult("ok", took_ms, content=call.wait(0))
            continue
        if part.needs_database and _is_about_connecting(error):
            database_failed = reason
        yield part.name, PartResult("failed", took_ms, reason)


def _is_about_connecting(error: Exception) -> bool:
    """Tell whether the next part would fail for the same reason, unlike one that waits for a lock."""
    return isinstance(error, TimeoutError) or (isinstance(error, psycopg.OperationalError) and error.sqlstate is None)


def describe_error(error: Exception) -> str:
    """Return why something failed, in a line, without secrets and addresses."""
    if isinstance(error, ConfigError):
        return "; ".join(map(scrub, error.problems))
    if isinstance(error, psycopg.Error):
        return scrub(describe(error))
    return scrub(str(getattr(error, "detail", None) or error) or type(error).__name__)


def make_report(results: Mapping[str, PartResult], made_at: datetime) -> str:
    """Return a report as JSON that people can read too: the rows of tables have a line each."""
    report = {
        "format": FORMAT,
        "tiercel": own_version(),
        "made_at": made_at.astimezone(UTC).isoformat(timespec="seconds"),
        "parts": {name: msgspec.to_builtins(result) for name, result in results.items()},
    }
    return f"{escape_json(_lay_out(report))}\n"


def _lay_out(value: Any, indent: str = "") -> str:
    deeper = f"{indent}  "
    if isinstance(value, Mapping) and value:
        lines = [f"{deeper}{_encode(str(name))}: {_lay_out(inner, deeper)}" for name, inner in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(f"{deeper}{_encode(row)}" for row in value) + f"\n{indent}]"
    return _encode(value)


def _encode(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def write_report(path: Path, report: str) -> None:
    """Write a report into a new file that only this user may read, whole or not at all.

    Raises:
        OSError: There is such a file, or it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(report.encode())
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
