"""The Containerfile: what can be told of it without building an image."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.tree import ROOT
from tests.processes import copy_home, free_port, serving

CONTAINERFILE = (ROOT / "Containerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split()
_COPIED = re.compile(r"^COPY (?!--from)(.*) \S+$", re.MULTILINE)
_HEALTH = re.compile(r"^HEALTHCHECK [^\n]*\\\n +CMD (.*)$", re.MULTILINE)


def last(instruction: str) -> str:
    """Return the argument of the last occurrence of an instruction, which takes precedence."""
    return str(re.findall(rf"^{instruction} (.*)$", CONTAINERFILE, re.MULTILINE)[-1])


def check_health(port: int) -> int:
    """Run the image's health check against a port; return its exit code."""
    (found,) = _HEALTH.findall(CONTAINERFILE)
    _, *arguments = json.loads(found)
    environment = {"TIERCEL_BIND": f"0.0.0.0:{port}"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False).returncode


@pytest.mark.parametrize("name", " ".join(_COPIED.findall(CONTAINERFILE)).split())
def test_what_is_copied_is_there_and_sent_to_the_builder(name: str) -> None:
    assert (ROOT / name).exists()
    assert f"!{name}" in IGNORED


def test_it_is_built_in_stages_and_does_not_run_as_root() -> None:
    assert len(re.findall(r"^FROM ", CONTAINERFILE, re.MULTILINE)) == 2
    assert last("USER") == "tiercel"
    assert json.loads(last("CMD")) == ["tiercel", "serve"]


@pytest.mark.process
def test_its_health_check_is_well_only_while_the_service_is_ready(initialised: Path, tmp_path: Path) -> None:
    with serving(copy_home(initialised, tmp_path)) as service:
        assert check_health(service.port) == 0

    assert check_health(free_port()) != 0
