"""Plugins are found in the tree, as modules, and as entry points of installed distributions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.errors import DuplicateError
from tests.kernel.fakes import Boot

PLUGIN = """
from kernel import Route, hookimpl

def hello() -> str:
    return "from afar"

@hookimpl
def register_routes(services):
    return [Route(path="/hello/", handler=hello, policy="public")]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one plugin: ``install("afar", "acme-tiercel", "acme_afar")``."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, distribution: str, module: str) -> None:
        (tmp_path / f"{module}.py").write_text(PLUGIN)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[tiercel]\n{name} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return make


def test_an_entry_point_is_a_plugin_once_it_is_named(install: Install, boot: Boot) -> None:
    install("afar", "acme-tiercel", "acme_afar")

    client = boot("afar")

    status = client.service.registry.statuses["afar"]
    assert (status.state, status.origin, status.version) == ("loaded", "acme_afar (acme-tiercel)", "1.2")
    assert client.get("/hello/").json() == "from afar"


def test_an_entry_point_that_is_not_named_is_left_alone(install: Install, boot: Boot) -> None:
    install("afar", "acme-tiercel", "acme_afar")

    client = boot()

    assert not client.service.registry.statuses
    assert "acme_afar" not in sys.modules


def test_an_entry_point_and_a_plugin_in_the_tree_of_one_name_are_refused(install: Install, boot: Boot) -> None:
    install("system", "acme-tiercel", "acme_system")

    with pytest.raises(DuplicateError, match=r"plugins\.system and acme_system \(acme-tiercel\)"):
        boot("system")


def test_two_entry_points_of_one_name_are_refused(install: Install, boot: Boot) -> None:
    install("afar", "acme-tiercel", "acme_afar")
    install("afar", "other-tiercel", "other_afar")

    with pytest.raises(DuplicateError) as caught:
        boot("afar")

    assert set(caught.value.owners) == {"acme_afar (acme-tiercel)", "other_afar (other-tiercel)"}


def test_a_plugin_in_the_tree_is_found_by_its_bare_name(boot: Boot) -> None:
    assert boot("system").service.registry.statuses["system"].origin == "plugins.system"
