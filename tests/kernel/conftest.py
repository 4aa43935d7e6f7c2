"""Fixtures: services that need no database, with plugins that are made in the test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kernel.contracts import Route
from kernel.testing import Client
from tests.kernel.fakes import Boot, CapturedLog, MakePlugin, boot_service, install_plugin


@pytest.fixture
def captured() -> CapturedLog:
    """The log of the services that ``boot`` makes."""
    return CapturedLog()


@pytest.fixture
def make_plugin(monkeypatch: pytest.MonkeyPatch) -> MakePlugin:
    """Make a plugin: ``make_plugin("alpha", register_routes=lambda services: [...])``."""

    def make(name: str, **hooks: Callable[..., Any]) -> str:
        return install_plugin(monkeypatch, name, hooks)

    return make


@pytest.fixture
def make_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make a plugin that is a package: ``make_package("alpha", files={"static/a.css": b"..."}, **hooks)``."""

    def make(name: str, *, files: Mapping[str, bytes], **hooks: Callable[..., Any]) -> str:
        for file, content in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        dotted = install_plugin(monkeypatch, name, hooks)
        sys.modules[dotted].__path__ = [str(tmp_path / name)]
        return dotted

    return make


@pytest.fixture
def boot(captured: CapturedLog) -> Boot:
    """Boot a service of some plugins, without a database and not started: ``boot("fakes.alpha", debug=True)``."""

    def start(*plugins: str, **values: Any) -> Client:
        return Client(boot_service(plugins, captured.log, **values))

    return start


@pytest.fixture
def mount(boot: Boot, make_plugin: MakePlugin) -> Callable[..., Client]:
    """Boot a service of one plugin with these routes: ``mount(Route(...), Route(...), debug=True)``."""

    def start(*routes: Route, **values: Any) -> Client:
        return boot(make_plugin("alpha", register_routes=lambda services: routes), **values)

    return start
