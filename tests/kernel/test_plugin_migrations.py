"""A plugin whose migration fails: left out if it is optional, the end of the boot if it is required."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel import Route
from kernel.app import Tiercel
from kernel.errors import PluginError
from kernel.testing import make_configuration
from tests.conftest import Serve
from tests.kernel.fakes import MakePlugin

BROKEN = "0001_broken.sql"
AddPlugin = Callable[[str], str]


@pytest.fixture
def add_plugin(make_plugin: MakePlugin, tmp_path: Path) -> AddPlugin:
    """Make a plugin with one route and one migration of the given text."""

    def add(text: str) -> str:
        folder = tmp_path / "migrations"
        folder.mkdir()
        (folder / BROKEN).write_text(text, encoding="utf-8")
        route = Route(path="/fragile/", handler=lambda: "here", policy="public")
        name = make_plugin("fragile", register_routes=lambda services: [route])
        sys.modules[name].__path__ = [str(tmp_path)]
        return name

    return add


def test_an_optional_plugin_whose_migration_fails_is_left_out_and_the_rest_serves(
    serve: Serve, add_plugin: AddPlugin
) -> None:
    client = serve(plugins=["system", "observability", add_plugin("SELEKT 1;")])

    assert client.get("/api/requests/").status == 200
    refused = client.get("/fragile/")
    assert refused.status == 503
    assert "fragile/0001_broken" in refused.json()["detail"]
    ready = client.get("/readyz?verbose")
    assert (ready.status, ready.json()["status"]) == (200, "degraded")
    assert "SELEKT" in ready.content.decode()


def test_a_required_plugin_whose_migration_fails_stops_the_boot(empty_database: str, add_plugin: AddPlugin) -> None:
    name = add_plugin("SELEKT 1;")
    service = Tiercel(make_configuration(plugins=[name], required=["fragile"], db={"url": empty_database}))

    with pytest.raises(PluginError, match=r"fragile\.migrations: fragile/0001_broken: .*SELEKT"):
        service.prepare()


def test_a_plugin_whose_migration_works_serves(serve: Serve, add_plugin: AddPlugin) -> None:
    client = serve(plugins=["system", add_plugin("CREATE SCHEMA fragile;")])

    assert client.get("/fragile/").json() == "here"
