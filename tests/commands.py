"""The command ``tiercel`` in this process: quick, and with the exit codes and messages of the real one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.cli.main import main


class Ran(msgspec.Struct, frozen=True):
    """What a command printed and how it ended."""

    code: int
    output: str
    errors: str

    def json(self) -> Any:
        """Decode what it printed."""
        return msgspec.json.decode(self.output)


RunCommand = Callable[..., Ran]


def make_runner(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Make a function that runs a command on a database, in a folder.

    Args:
        database: How to connect to it.
        folder: The working directory.
        monkeypatch: Sets the surroundings.
        capsys: Catches what is printed.
    """
    for name in [name for name in os.environ if name.startswith("TIERCEL_") and not name.startswith("TIERCEL_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIERCEL_DATABASE_URL", database)
    monkeypatch.setenv("TIERCEL_HOME", str(folder / ".tiercel"))
    monkeypatch.chdir(folder)

    def run(*arguments: str, **variables: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["tiercel", *arguments])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ex:
            code = int(ex.code or 0)
        output, errors = capsys.readouterr()
        return Ran(code, output, errors)

    return run
