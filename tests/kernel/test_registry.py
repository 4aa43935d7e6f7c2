"""The registry: plugins are found, called in configured order, and errors name the plugin and the hook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from kernel.cli.main import root
from kernel.contracts import Application, Command, Dataset, HealthCheck, Job, Route
from kernel.errors import BootError, ConfigError, DuplicateError, PluginError
from kernel.registry import KERNEL_COMMANDS
from kernel.services import Services
from tests.kernel.fakes import Boot, CapturedLog, KeyAuthenticator, MakePlugin, raise_oops


def hello() -> str:
    """Answer."""
    return "hello"


def hello_name(name: str) -> str:
    """Answer."""
    return name


class Named(msgspec.Struct, frozen=True):
    """An item with a key."""

    id: str


def hello_other(other: str) -> str:
    """Answer."""
    return other


DUPLICATES: list[tuple[str, str, Callable[[], Any], Callable[[], Any]]] = [
    (
        "register_routes",
        r"route 'GET /x' is claimed by both alpha and beta",
        lambda: Route(path="/x/", handler=hello, policy="read"),
        lambda: Route(path="/x", handler=hello, policy="read"),
    ),
    (
        "register_routes",
        r"route 'GET /x/\{other\}' is claimed by both alpha and beta",
        lambda: Route(path="/x/{name}/", handler=hello_name, policy="read"),
        lambda: Route(path="/x/{other}/", handler=hello_other, policy="read"),
    ),
    (
        "register_routes",
        r"route 'GET /y' is claimed by both alpha and beta",
        lambda: Route(path="/y/", handler=hello, policy="read"),
        lambda: Route(path="/x/", aliases=("/y/",), handler=hello, policy="read"),
    ),
    (
        "register_jobs",
        r"job 'refresh' is claimed by both alpha and beta",
        lambda: Job(name="refresh", run=hello),
        lambda: Job(name="refresh", run=hello),
    ),
    (
        "register_applications",
        r"application 'skyflow' is claimed by both alpha and beta",
        lambda: Application(slug="skyflow", name="A"),
        lambda: Application(slug="skyflow", name="B"),
    ),
    (
        "register_datasets",
        r"dataset 'tiers' is claimed by both alpha and beta",
        lambda: Dataset(name="tiers", item=Named, key="id"),
        lambda: Dataset(name="tiers", item=Named, key="id"),
    ),
    (
        "register_health_checks",
        r"health check 'disk' is claimed by both alpha and beta",
        lambda: HealthCheck(name="disk", probe=lambda: None),
        lambda: HealthCheck(name="disk", probe=lambda: None),
    ),
]


@pytest.mark.parametrize(("hook", "message", "first", "second"), DUPLICATES)
def test_a_duplicate_stops_the_boot_and_names_both_owners(
    hook: str, message: str, first: Callable[[], Any], second: Callable[[], Any], boot: Boot, make_plugin: MakePlugin
) -> None:
    alpha = make_plugin("alpha", **{hook: lambda services: [first()]})
    beta = make_plugin("beta", **{hook: lambda services: [second()]})

    with pytest.raises(DuplicateError, match=message):
        boot(alpha, beta)


@pytest.mark.parametrize("name", ["startup", "database", "writes", "plugins"])
def test_a_health_check_of_the_kernel_cannot_be_replaced(name: str, boot: Boot, make_plugin: MakePlugin) -> None:
    check = HealthCheck(name=name, probe=lambda: None)
    alpha = make_plugin("alpha", register_health_checks=lambda services: [check])

    with pytest.raises(DuplicateError, match=f"health check '{name}' is claimed by both kernel and alpha"):
        boot(alpha)


def test_a_route_of_the_kernel_cannot_be_replaced(boot: Boot, make_plugin: MakePlugin) -> None:
    route = Route(path="/livez/", handler=hello, policy="public")
    alpha = make_plugin("alpha", register_routes=lambda services: [route])

    with pytest.raises(DuplicateError, match="route 'GET /livez' is claimed by both kernel and alpha"):
        boot(alpha)


def test_a_plugin_that_repeats_a_command_stops_the_boot(boot: Boot, make_plugin: MakePlugin) -> None:
    commands = [Command(command=click.Command("fill")), Command(command=click.Command("fill"))]
    alpha = make_plugin("alpha", register_commands=lambda services: commands)

    with pytest.raises(DuplicateError, match="command 'alpha fill'"):
        boot(alpha)


@pytest.mark.parametrize(("alias", "owner"), [("migrate", "kernel"), ("beta", "beta"), ("refill", "beta")])
def test_an_alias_that_is_taken_stops_the_boot(alias: str, owner: str, boot: Boot, make_plugin: MakePlugin) -> None:
    aliases = {"beta": "refill", "alpha": alias}
    names = [
        make_plugin(name, register_commands=lambda given=given: [Command(command=click.Command("fill"), alias=given)])
        for name, given in aliases.items()
    ]

    with pytest.raises(DuplicateError, match=f"command '{alias}' is claimed by both {owner} and alpha"):
        boot(*names)


def test_two_plugins_may_have_commands_with_the_same_name(boot: Boot, make_plugin: MakePlugin) -> None:
    names = [
        make_plugin(name, register_commands=lambda services: [Command(command=click.Command("fill"))])
        for name in ("alpha", "beta")
    ]

    commands = boot(*names).service.registry.contributions(Command)

    assert [(owner, command.command.name) for owner, command in commands] == [("alpha", "fill"), ("beta", "fill")]


def test_two_plugins_with_the_same_name_stop_the_boot(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha")

    with pytest.raises(DuplicateError, match=r"plugin 'alpha' is claimed by both fakes\.alpha and other\.alpha"):
        boot(alpha, "other.alpha")


def test_two_plugins_that_authenticate_stop_the_boot(boot: Boot, make_plugin: MakePlugin) -> None:
    def register_routes(services: Services) -> list[Route]:
        services.authenticate_with(KeyAuthenticator({}))
        return []

    names = [make_plugin("alpha", register_routes=register_routes)]
    names += [make_plugin("beta", register_jobs=register_routes)]

    with pytest.raises(DuplicateError, match="authentication 'authenticate' is claimed by both alpha and beta"):
        boot(*names)


def test_hooks_are_called_in_configured_order(boot: Boot, make_plugin: MakePlugin) -> None:
    called: list[str] = []
    hooks = {"startup": lambda services: called.append(services.plugin)}

    boot(make_plugin("beta", **hooks), make_plugin("alpha", **hooks)).service.registry.start()

    assert called == ["beta", "alpha"]


def test_shutdown_is_called_in_reverse_order_even_if_one_fails(
    boot: Boot, make_plugin: MakePlugin, captured: CapturedLog
) -> None:
    called: list[str] = []

    def shutdown(services: Services) -> None:
        called.append(services.plugin)
        if services.plugin == "beta":
            raise_oops()

    names = [make_plugin(name, shutdown=shutdown) for name in ("alpha", "beta", "gamma")]

    boot(*names).service.registry.stop()

    assert called == ["gamma", "beta", "alpha"]
    assert captured.events("plugin_shutdown_failed")[0]["plugin"] == "beta"


def test_a_misspelt_hook_stops_the_boot_and_is_named(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_rotues=lambda services: [])

    with pytest.raises(BootError, match=r"^alpha: .*register_rotues"):
        boot(make_plugin("beta"), alpha)


def test_an_unknown_argument_of_a_hook_stops_the_boot_and_is_named(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_routes=lambda service: [])

    with pytest.raises(BootError, match=r"(?s)^alpha: .*register_routes.*'service'"):
        boot(alpha)


def test_a_plugin_that_cannot_be_found_is_quarantined_with_the_places_searched(boot: Boot) -> None:
    status = boot("nowhere").service.registry.statuses["nowhere"]

    assert status.state == "quarantined"
    assert "plugins/nowhere or contrib/nowhere" in str(status.reason)


@pytest.mark.parametrize("required", ["alpha", "fakes.alpha"])
@pytest.mark.parametrize("hook", ["register_settings", "register_routes", "register_commands"])
def test_a_required_plugin_that_fails_stops_the_boot(
    hook: str, required: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    alpha = make_plugin("alpha", **{hook: raise_oops})

    with pytest.raises(PluginError, match=f"^alpha.{hook}: RuntimeError: oops$"):
        boot(alpha, required=[required])


def test_a_required_plugin_that_is_not_listed_stops_the_boot(boot: Boot, make_plugin: MakePlugin) -> None:
    with pytest.raises(ConfigError, match="required: plugin 'beta' is not among plugins"):
        boot(make_plugin("alpha"), required=["beta"])


@pytest.mark.parametrize("disabled", ["alpha", "fakes.alpha"])
def test_a_disabled_plugin_is_not_even_imported(disabled: str, boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_rotues=lambda: None)

    registry = boot(alpha, disabled=[disabled]).service.registry

    assert registry.statuses["alpha"].state == "disabled"
    assert not registry.plugins


@pytest.mark.parametrize("command", sorted(KERNEL_COMMANDS))
def test_a_plugin_with_the_name_of_a_kernel_command_stops_the_boot(
    command: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    with pytest.raises(DuplicateError, match=f"'{command}' is claimed by both kernel and fakes.{command}"):
        boot(make_plugin(command))


def test_every_kernel_command_can_be_loaded_under_its_name() -> None:
    context = click.Context(root)
    commands = {name: root.get_command(context, name) for name in KERNEL_COMMANDS}

    assert {name for name, command in commands.items() if command is None or command.name != name} == set()


# --- finding plugins --------------------------------------------------------------------------------------------------


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


def test_an_entry_point_is_loaded_if_it_is_enabled(install: Install, boot: Boot) -> None:
    install("afar", "acme-tiercel", "acme_afar")

    client = boot("afar")

    status = client.service.registry.statuses["afar"]
    assert (status.state, status.origin, status.version) == ("loaded", "acme_afar (acme-tiercel)", "1.2")
    assert client.get("/hello/").json() == "from afar"


def test_an_entry_point_that_is_not_enabled_is_not_imported(install: Install, boot: Boot) -> None:
    install("afar", "acme-tiercel", "acme_afar")

    client = boot()

    assert not client.service.registry.statuses
    assert "acme_afar" not in sys.modules


def test_an_entry_point_with_the_name_of_a_plugin_in_the_tree_stops_the_boot(install: Install, boot: Boot) -> None:
    install("system", "acme-tiercel", "acme_system")

    with pytest.raises(DuplicateError, match=r"plugins\.system and acme_system \(acme-tiercel\)"):
        boot("system")


def test_two_entry_points_with_the_same_name_stop_the_boot(install: Install, boot: Boot) -> None:
    install("afar", "acme-tiercel", "acme_afar")
    install("afar", "other-tiercel", "other_afar")

    with pytest.raises(DuplicateError) as caught:
        boot("afar")

    assert set(caught.value.owners) == {"acme_afar (acme-tiercel)", "other_afar (other-tiercel)"}


def test_a_plugin_in_the_tree_is_found_by_its_bare_name(boot: Boot) -> None:
    assert boot("system").service.registry.statuses["system"].origin == "plugins.system"
