"""Access logs for tests, and the command that imports them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner

from kernel.testing import Client

START = datetime(2025, 12, 14, 12, tzinfo=UTC)
AGENT = "Mozilla/5.0 (X11; Linux x86_64)"


def common_line(
    *,
    request: str = "GET /invoices?page=2 HTTP/1.1",
    status: str = "200",
    user: str = "-",
    time: str = "[14/Dec/2025:12:00:00 +0000]",
    size: str = "512",
) -> bytes:
    """Make a line of the common format."""
    return f'192.0.2.7 - {user} {time} "{request}" {status} {size}'.encode()


def combined_line(*, referer: str = "https://example.com/", agent: str = AGENT, **fields: str) -> bytes:
    """Make a line of the combined format."""
    return common_line(**fields) + f' "{referer}" "{agent}"'.encode()


def combined_log(count: int) -> bytes:
    """Make a log of lines a second apart."""
    times = (START + timedelta(seconds=number) for number in range(count))
    return b"".join(combined_line(time=f"[{time:%d/%b/%Y:%H:%M:%S %z}]") + b"\n" for time in times)


class Imported(msgspec.Struct):
    """What the command did.

    Args:
        exit_code: Of the command.
        summary: The JSON it printed.
        errors: What it printed on standard error.
    """

    exit_code: int
    summary: Any
    errors: str

    @property
    def counts(self) -> tuple[int, int, int]:
        """Inserted, duplicates and refused."""
        return self.summary["inserted"], self.summary["duplicates"], self.summary["refused"]


def run_import(client: Client, *arguments: str | Path, stdin: bytes = b"") -> Imported:
    """Run ``tiercel observability import`` in this process, with ``--json``."""
    command = client.command("observability", "import")
    result = CliRunner().invoke(command, [*map(str, arguments), "--json"], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Imported(result.exit_code, msgspec.json.decode(result.stdout or "null"), result.stderr)


def import_text(client: Client, folder: Path, content: bytes, *arguments: str, name: str = "shop.log") -> Imported:
    """Import a log that is written into a file first."""
    file = folder / name
    file.write_bytes(content)
    return run_import(client, file, *arguments)


def stored(client: Client) -> list[dict[str, Any]]:
    """Return the events that are stored, oldest first."""
    events: list[dict[str, Any]] = client.get("/api/requests/?ordering=time&page_size=1000").json()["results"]
    return events
