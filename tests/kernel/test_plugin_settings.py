"""Tables of plugins in the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from kernel.app import Tiercel
from kernel.config import Configuration, load
from kernel.errors import ConfigError, DuplicateError
from kernel.settings import Secret, Table, env
from kernel.testing import make_configuration
from plugins.observability.settings import ObservabilitySettings
from tests.kernel.fakes import NOWHERE, Boot, MakePlugin


class Inner(Table, frozen=True):
    depth: int = 1


class AlphaSettings(Table, frozen=True):
    size: Annotated[int, env("ALPHA_SIZE"), msgspec.Meta(ge=1)] = 5
    token: Secret | None = None
    inner: Inner = Inner()


class Needy(Table, frozen=True):
    token: str


class Named(Table, frozen=True):
    by_name: dict[str, Inner]


class Checked(Table, frozen=True):
    first: int = 1
    last: int = 9

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"last: Expected at least first, got {self.last}.")


def table_of(tmp_path: Path, environ: dict[str, str], toml: str = "") -> tuple[AlphaSettings, Configuration]:
    """Decode the table of a plugin from the environment and a file."""
    (tmp_path / "tiercel.toml").write_text(toml)
    configuration = load({"TIERCEL_CONFIG": "tiercel.toml", **environ}, tmp_path)
    return configuration.table("alpha", AlphaSettings), configuration


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"ALPHA_SIZE": "7"}, 7),
        ({"TIERCEL_ALPHA__SIZE": "8", "ALPHA_SIZE": "7"}, 8),
        ({}, 6),
    ],
)
def test_a_plugin_declares_aliases_that_the_canonical_name_beats(
    environ: dict[str, str], expected: int, tmp_path: Path
) -> None:
    table, _ = table_of(tmp_path, environ, "[alpha]\nsize = 6")

    assert table.size == expected


@pytest.mark.parametrize("name", ["BATCH_SIZE", "MAX_EVENTS", "MAX_ERRORS"])
def test_ingest_limits_keep_their_documented_names(name: str, tmp_path: Path) -> None:
    table = load({f"APM_INGEST_{name}": "77"}, tmp_path).table("observability", ObservabilitySettings)

    assert getattr(table, f"ingest_{name.lower()}") == 77


def test_the_services_of_a_plugin_hold_its_table(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_settings=lambda: AlphaSettings)

    client = boot(alpha, alpha={"size": 9})

    assert client.service.registry.services["alpha"].settings(AlphaSettings).size == 9


def test_a_secret_of_a_plugin_shows_neither_in_entries_nor_in_representations(tmp_path: Path) -> None:
    table, configuration = table_of(tmp_path, {"TIERCEL_ALPHA__TOKEN": "hunter2"})

    assert table.token == Secret("hunter2")
    assert "hunter2" not in f"{table!r} {configuration.entries()!r}"


@pytest.mark.parametrize("value", [5, [], "text"])
def test_a_table_that_is_none_is_refused_by_name(value: Any, boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_settings=lambda: AlphaSettings)

    with pytest.raises(ConfigError) as caught:
        boot(alpha, alpha=value)

    assert caught.value.problems == (f"test: alpha: Expected a table, got {value!r}.",)


def test_wrong_keys_of_all_plugins_are_named_at_once(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_settings=lambda: AlphaSettings)
    beta = make_plugin("beta", register_settings=lambda: Needy)

    with pytest.raises(ConfigError) as caught:
        boot(alpha, beta, alpha={"size": 0, "sise": 1, "inner": {"depth": "x"}}, gamma={})

    assert caught.value.problems == (
        "test: alpha.sise: unknown key; there are size, token, inner",
        "test: alpha.size: Expected int >= 1, got 0.",
        "test: alpha.inner.depth: Expected int, got 'x'.",
        "beta.token: is needed (str)",
        "test: gamma: unknown key; no plugin takes a table of that name",
    )


def test_a_table_that_checks_itself_names_the_key_and_its_place(tmp_path: Path) -> None:
    configuration = load({"TIERCEL_ALPHA__LAST": "0"}, tmp_path)

    with pytest.raises(ConfigError) as caught:
        configuration.table("alpha", Checked)

    assert caught.value.problems == ("environment TIERCEL_ALPHA__LAST: alpha.last: Expected at least first, got 0.",)


def test_an_unknown_variable_with_our_prefix_is_refused_by_name(tmp_path: Path) -> None:
    configuration = load({"TIERCEL_PLUGINS": "system", "TIERCEL_DB__POOL_MAXX": "1", "TIERCEL_DEBUGG": "1"}, tmp_path)

    with pytest.raises(ConfigError) as caught:
        Tiercel(configuration)

    assert set(caught.value.problems) == {
        "environment TIERCEL_DB__POOL_MAXX: unknown setting",
        "environment TIERCEL_DEBUGG: unknown setting",
    }


def test_variables_of_others_are_none_of_our_business(tmp_path: Path) -> None:
    environ = {"TIERCEL_PLUGINS": "system", "TIERCEL_DATABASE_URL": NOWHERE}

    Tiercel(load({**environ, "DB__POOL_MAXX": "1", "TIERCEL_TEST_URL": "x"}, tmp_path))


def test_settings_of_a_disabled_plugin_are_tolerated(tmp_path: Path, make_plugin: MakePlugin) -> None:
    (tmp_path / "tiercel.toml").write_text("[alpha]\nanything = 1\n")
    environ = {
        "TIERCEL_CONFIG": "tiercel.toml",
        "TIERCEL_PLUGINS": f"system,{make_plugin('alpha')}",
        "TIERCEL_DISABLED": "alpha",
        "TIERCEL_ALPHA__OTHER": "2",
        "TIERCEL_DATABASE_URL": NOWHERE,
    }

    Tiercel(load(environ, tmp_path))


def test_settings_of_a_plugin_that_is_not_listed_are_tolerated_if_it_exists(tmp_path: Path) -> None:
    (tmp_path / "tiercel.toml").write_text("[observability]\nlog_own_requests = false\n")
    environ = {"TIERCEL_CONFIG": "tiercel.toml", "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "0"}

    Tiercel(load({**environ, "TIERCEL_PLUGINS": "system", "TIERCEL_DATABASE_URL": NOWHERE}, tmp_path))


def test_the_table_of_a_quarantined_plugin_is_tolerated(boot: Boot) -> None:
    client = boot("nowhere.alpha", alpha={"size": 9})

    assert client.service.registry.statuses["alpha"].state == "quarantined"


def test_a_plugin_with_the_name_of_a_table_of_the_kernel_is_refused(boot: Boot, make_plugin: MakePlugin) -> None:
    with pytest.raises(DuplicateError, match=r"settings table 'server' is claimed by both kernel and fakes\.server"):
        boot(make_plugin("server"))


def test_a_wrong_table_inside_a_table_is_named_without_repeating_what_it_holds() -> None:
    configuration = make_configuration(alpha={"by_name": {"one": {"depth": "hunter2"}}})

    wrong = r"alpha\.by_name: Expected int, got str - at \$\[\.\.\.\]\.depth"
    with pytest.raises(ConfigError, match=wrong) as caught:
        configuration.table("alpha", Named)

    assert "hunter2" not in str(caught.value)
