"""Every hook is called with its arguments, and its result takes effect."""

from __future__ import annotations

import click
import msgspec

from kernel import hookspecs
from kernel.app import BOOT_STEPS
from kernel.contracts import Application, Command, Dataset, HealthCheck, Job, Route
from kernel.http.search import Search
from kernel.services import Services
from kernel.settings import Table
from tests.kernel.fakes import Boot, MakePlugin


class Item(msgspec.Struct, frozen=True):
    id: str


class AlphaSettings(Table, frozen=True):
    size: int = 5


def hello() -> str:
    """Answer."""
    return "hello"


def test_every_register_hook_has_a_boot_step_in_the_order_of_the_specification() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("register_")]
    steps = [step.__name__ for step in BOOT_STEPS]

    assert [step for step in steps if step.startswith("register_")] == hooks[1:]
    assert hooks[0] == "register_settings"
    assert steps.index("decode_plugin_settings") < steps.index(hooks[1])


def test_hook_register_settings(boot: Boot, make_plugin: MakePlugin) -> None:
    client = boot(make_plugin("alpha", register_settings=lambda: AlphaSettings), alpha={"size": 6})

    assert client.service.registry.services["alpha"].settings(AlphaSettings) == AlphaSettings(size=6)


def test_hook_register_applications(boot: Boot, make_plugin: MakePlugin) -> None:
    application = Application(slug="skyflow", name="Skyflow", features=("flow",))

    client = boot(make_plugin("alpha", register_applications=lambda services: [application]))

    assert client.service.registry.contributions(Application) == (("alpha", application),)


def test_hook_register_datasets(boot: Boot, make_plugin: MakePlugin) -> None:
    dataset = Dataset(name="tiers", item=Item, key="id")

    client = boot(make_plugin("alpha", register_datasets=lambda services: [dataset]))

    assert client.service.registry.contributions(Dataset) == (("alpha", dataset),)


def test_hook_register_routes(boot: Boot, make_plugin: MakePlugin) -> None:
    route = Route(path="/hello/", handler=hello, policy="public")

    client = boot(make_plugin("alpha", register_routes=lambda services: [route]))

    assert client.service.registry.contributions(Route) == (("alpha", route),)
    assert client.get("/hello/").json() == "hello"


def test_hook_register_searches(boot: Boot, make_plugin: MakePlugin) -> None:
    search = Search(name="Orders", find=lambda text, identity, limit: [])

    client = boot(make_plugin("alpha", register_searches=lambda services: [search]))

    assert client.service.registry.contributions(Search) == (("alpha", search),)


def test_hook_register_jobs(boot: Boot, make_plugin: MakePlugin) -> None:
    job = Job(name="refresh", run=hello, schedule="0 * * * *")

    client = boot(make_plugin("alpha", register_jobs=lambda services: [job]))

    assert client.service.registry.contributions(Job) == (("alpha", job),)


def test_hook_register_health_checks(boot: Boot, make_plugin: MakePlugin) -> None:
    check = HealthCheck(name="disk", probe=lambda: "half full")

    client = boot(make_plugin("alpha", register_health_checks=lambda services: (check,)))

    (result,) = client.service.shared.health.run(only=("disk",))
    assert (result.status, result.detail) == ("ok", "half full")


def test_hook_register_commands(boot: Boot, make_plugin: MakePlugin) -> None:
    command = Command(command=click.Command("fill"))

    client = boot(make_plugin("alpha", register_commands=lambda services: iter([command])))

    assert client.service.registry.contributions(Command) == (("alpha", command),)


def test_hook_startup(boot: Boot, make_plugin: MakePlugin) -> None:
    given: list[Services] = []
    service = boot(make_plugin("alpha", startup=lambda services: given.append(services))).service
    assert not given

    service.registry.start()

    assert given == [service.registry.services["alpha"]]


def test_hook_shutdown(boot: Boot, make_plugin: MakePlugin) -> None:
    given: list[Services] = []
    service = boot(make_plugin("alpha", shutdown=lambda services: given.append(services))).service

    service.registry.stop()

    assert given == [service.registry.services["alpha"]]
