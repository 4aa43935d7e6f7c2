"""Run the command ``tiercel`` in the process of the test: fast, with the same exit codes and messages."""

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
    """The exit code of a command, and what it printed to standard output and standard error."""

    code: int
    output: str
    errors: str

    def json(self) -> Any:
        """Decode standard output as JSON."""
        return msgspec.json.decode(self.output)


RunCommand = Callable[..., Ran]


def make_runner(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Return a function that runs commands on a database, in a folder: ``run("check", "--json", TIERCEL_AUTH="open")``.

    Args:
        database: Connection string of the database.
        folder: The working directory.
        monkeypatch: Sets environment variables and the working directory.
        capsys: Captures what is printed.
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
