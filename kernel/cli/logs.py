"""``tiercel logs``: print the end of the log file, and follow it."""

from __future__ import annotations

import codecs
import os
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

import click

from kernel.config import load
from kernel.conversion import escape_controls
from kernel.errors import TiercelError

_POLL_S = 0.2
_CHUNK_BYTES = 64 * 1024


@click.command()
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0), help="How many lines to print.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on, until Ctrl-C.")
def logs(*, lines: int, follow: bool) -> None:
    """Print the last lines of the log file, which `log.file` configures."""
    path = load().settings.log.file
    if path is None:
        raise TiercelError("there is no log file: set log.file, or TIERCEL_LOG__FILE")
    try:
        _tail(path, lines, follow=follow)
    except OSError as ex:
        if isinstance(ex, BrokenPipeError):
            raise
        raise TiercelError(f"{path}: cannot be read: {ex.strerror or ex}") from ex


def _tail(path: Path, lines: int, *, follow: bool) -> None:
    file = path.open("rb")
    try:
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        for line in deque(file, maxlen=lines):
            _print(decoder.decode(line))
        while follow:
            if not _copy(file, decoder):
                time.sleep(_POLL_S)
            if _is_renamed(path, file):
                # What was written before it was renamed, and then the file that has its name.
                _copy(file, decoder)
                file.close()
                file = path.open("rb")
    finally:
        file.close()


def _copy(file: BinaryIO, decoder: codecs.IncrementalDecoder) -> bool:
    """Print the rest of a file; tell whether there was any."""
    copied = False
    while chunk := file.read(_CHUNK_BYTES):
        _print(decoder.decode(chunk))
        copied = True
    return copied


def _print(text: str) -> None:
    # Other programs may have written to the file as well.
    click.echo(escape_controls(text, keep_lines=True), nl=False)


def _is_renamed(path: Path, file: BinaryIO) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
