"""Imports without a package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kernel.imports import without_package


def test_a_package_cannot_be_imported_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)

    with without_package("wave"), pytest.raises(ModuleNotFoundError):
        import wave

    import wave

    assert wave.__name__ == "wave"


def test_a_package_can_be_imported_after_an_error_in_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)

    with pytest.raises(KeyError), without_package("wave"):
        raise KeyError

    assert "wave" not in sys.modules


def test_what_has_been_imported_stays() -> None:
    before = sys.modules["subprocess"]

    with without_package("subprocess"):
        import subprocess as imported

        assert imported is before
    assert sys.modules["subprocess"] is before


def test_a_command_starts_without_what_only_terminals_need() -> None:
    script = "import sys, kernel.cli.main; print(*{'rich', 'attr', 'pygments'} & set(sys.modules)); import rich.console"

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert printed == "\n"
