"""``tiercel test``: which tests a label selects, and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import RunCommand, make_runner
from tests.processes import TIERCEL, make_environment

TESTS = """
import unittest

class OneTestCase(unittest.TestCase):
    def test_first(self): pass
    def test_second(self): pass

class OtherTestCase(unittest.TestCase):
    def test_first(self): self.fail("as it must")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with tests of the plugins shop, acme.hello and far."""
    for place in ("shop/tests.py", "acme/test_hello.py", "tests/plugins/far/test_routes.py"):
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        path.write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = tests.py test_*.py\n")
    return tmp_path


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "code", "outcome"),
    [
        ((), 1, "3 failed, 6 passed"),
        (("shop",), 1, "1 failed, 2 passed"),
        (("shop.tests.OneTestCase",), 0, "2 passed, 1 deselected"),
        (("shop.OneTestCase.test_first",), 0, "1 passed, 2 deselected"),
        (("acme.hello.tests.OneTestCase", "-q"), 0, "2 passed, 1 deselected"),
        (("far",), 1, "1 failed, 2 passed"),
        (("acme/test_hello.py::OneTestCase",), 0, "2 passed"),
    ],
)
def test_a_label_selects_tests(arguments: tuple[str, ...], code: int, outcome: str, folder: Path) -> None:
    command = [TIERCEL, "test", *arguments, "-p", "no:cacheprovider"]
    environment = make_environment(folder / ".tiercel")
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    assert ran.returncode == code, ran.stderr
    assert f"{outcome} in" in ran.stdout


@pytest.fixture
def tiercel(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Run commands in this process, in the folder."""
    return make_runner("host=127.0.0.1 port=1", folder, monkeypatch, capsys)


def test_a_label_without_tests_exits_2_and_says_where_they_would_be(tiercel: RunCommand) -> None:
    ran = tiercel("test", "shopp")

    assert ran.code == 2
    assert "shopp: of shopp there are no tests in shopp/tests, shopp/tests.py, test_shopp.py" in ran.errors


def test_a_class_cannot_be_selected_beside_other_labels(tiercel: RunCommand) -> None:
    ran = tiercel("test", "far", "shop.tests.OneTestCase")

    assert ran.code == 2
    assert "shop.tests.OneTestCase selects a class: pass it alone" in ran.errors


def test_a_class_that_is_not_there_exits_1(tiercel: RunCommand) -> None:
    ran = tiercel("test", "shop.tests.NoSuchTestCase")

    assert (ran.code, ran.errors) == (1, "tiercel: no test was found\n")


def test_without_pytest_it_says_what_to_install(tiercel: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)

    ran = tiercel("test")

    assert (ran.code, ran.errors) == (
        1,
        "tiercel: tests are run by pytest, which is not installed: pip install pytest\n",
    )
