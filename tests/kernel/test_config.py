"""Configuration: precedence of sources, decoding of the kernel's settings and of plugins' tables, error messages."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.app import Tiercel
from kernel.config import (
    DATABASE_FAMILIES,
    PREFIX,
    WITHOUT_EFFECT,
    Configuration,
    FileSource,
    load,
    read_environments,
    read_shipped_file,
)
from kernel.conversion import base_type, nested_struct, struct_fields
from kernel.errors import BootError, ConfigError, DuplicateError
from kernel.settings import Secret, Settings, Table, env
from kernel.testing import make_configuration
from plugins.observability.settings import ObservabilitySettings
from plugins.trace.settings import TraceSettings
from tests.kernel.fakes import NOWHERE, Boot, CapturedLog, MakePlugin

FROM_ENVIRONMENT: list[tuple[dict[str, str], str, object]] = [
    ({"TIERCEL_DB__POOL_MAX": "7"}, "db.pool_max", 7),
    ({"TIERCEL_BIND": "127.0.0.1:9000"}, "server.bind", "127.0.0.1:9000"),
    ({"TIERCEL_WORKERS": "3"}, "server.workers", 3),
    ({"TIERCEL_THREADS": "4"}, "server.threads", 4),
    ({"TIERCEL_LOG": "json"}, "log.format", "json"),
    ({"TIERCEL_AUTH": "required"}, "auth", "required"),
    ({"TIERCEL_JOB_PROCESSES": "5"}, "jobs.processes", 5),
    ({"TIERCEL_HOME": "/srv/t"}, "home", Path("/srv/t")),
    ({"TIERCEL_PLUGINS": "system, acme.club,"}, "plugins", ("system", "acme.club")),
    ({"TIERCEL_REQUIRED": ""}, "required", ()),
    ({"TIERCEL_DB__EMBEDDED_OPTIONS": '{"fsync": "off"}'}, "db.embedded_options", {"fsync": "off"}),
    ({"WEB_PORT": "8123"}, "server.bind", "127.0.0.1:8123"),
    ({"WEB_PORT": ""}, "server.bind", "127.0.0.1:8000"),
    ({"WEB_PORT": "8123", "TIERCEL_BIND": ""}, "server.bind", "127.0.0.1:8123"),
    ({"DRF_PAGE_SIZE": "25"}, "http.page_size", 25),
    ({"DEBUG": "True"}, "debug", True),
    ({"DEBUG": "0"}, "debug", False),
    ({"DJANGO_DEBUG": "1"}, "debug", True),
    ({"SECRET_KEY": "k"}, "secret_key", Secret("k")),
    ({"DJANGO_SECRET_KEY": "k"}, "secret_key", Secret("k")),
    ({"DJANGO_ALLOWED_HOSTS": "a.example"}, "http.allowed_hosts", ("a.example",)),
    ({"ALLOWED_HOSTS": "a.example,b.example"}, "http.allowed_hosts", ("a.example", "b.example")),
    ({"DATABASE_URL": "postgresql://u@h/d"}, "db.url", Secret("postgresql://u@h/d")),
    ({"DATABASE_URL": ""}, "db.url", None),
    (
        {
            "POSTGRES_HOST": "h",
            "POSTGRES_PORT": "6432",
            "POSTGRES_DB": "d",
            "POSTGRES_USER": "u",
            "DB_SSLMODE": "require",
        },
        "db.url",
        Secret("host=h port=6432 dbname=d user=u sslmode=require"),
    ),
    ({"POSTGRES_DB": "d", "DATABASE_URL": ""}, "db.url", Secret("dbname=d")),
    ({"POSTGRES_HOST": "h", "POSTGRES_PASSWORD": "a b'c"}, "db.url", Secret(r"host=h password='a b\'c'")),
    (
        {
            "DB_HOST": "h",
            "DB_PORT": "6432",
            "DB_NAME": "d",
            "DB_USER": "u",
            "DB_PASSWORD": "p",
            "DB_SSLMODE": "require",
        },
        "db.url",
        Secret("host=h port=6432 dbname=d user=u password=p sslmode=require"),
    ),
    ({"DB_NAME": "d", "DB_USER": "u"}, "db.url", Secret("dbname=d user=u")),
    ({"DB_USER": "u", "DB_PASSWORD": "p", "DB_PORT": "5432"}, "db.url", None),
    ({"DB_HOST": "h", "DB_NAME": "d", "POSTGRES_HOST": "g", "POSTGRES_USER": "u"}, "db.url", Secret("host=g user=u")),
    (
        {"DB_HOST": "h", "DB_NAME": "d", "POSTGRES_DB": "e", "POSTGRES_PASSWORD": "p"},
        "db.url",
        Secret("host=h dbname=d"),
    ),
    ({"DATABASE_URL": "sqlite:///db.sqlite3"}, "db.url", None),
    ({"DATABASE_URL": "sqlite:///db.sqlite3", "DB_HOST": "h"}, "db.url", Secret("host=h")),
]

PRECEDENCE: list[tuple[dict[str, str], str, str, str]] = [
    ({"TIERCEL_DB__POOL_MAX": "1"}, "TIERCEL_DB__POOL_MAX=2", "[db]\npool_max = 3", "1"),
    ({}, "TIERCEL_DB__POOL_MAX=2", "[db]\npool_max = 3", "2"),
    ({}, "", "[db]\npool_max = 3", "3"),
    ({}, "", "", "10"),
]

ALIASES = [
    ({"TIERCEL_DB__URL": "host=a", "TIERCEL_DATABASE_URL": "host=b", "DATABASE_URL": "host=c"}, "host=a"),
    ({"TIERCEL_DATABASE_URL": "host=b", "DATABASE_URL": "host=c"}, "host=b"),
    ({"DATABASE_URL": "host=c", "POSTGRES_HOST": "d"}, "host=c"),
    ({"POSTGRES_HOST": "d"}, "host=d"),
]


def entry_of(configuration: Configuration, key: str) -> tuple[str, str]:
    """Return value and origin of a key."""
    return next((entry.value, entry.origin) for entry in configuration.entries() if entry.key == key)


def value_of(configuration: Configuration, key: str) -> object:
    """Return the decoded value of a key."""
    found: Any = configuration.settings
    for part in key.split("."):
        found = getattr(found, part)
    return found


def problems_of(environ: Mapping[str, str], file: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return the problems of a configuration that is rejected."""
    with pytest.raises(ConfigError) as caught:
        Configuration(read_environments({"environment": environ}), FileSource("tiercel.toml", file or {}))
    return caught.value.problems


@pytest.mark.parametrize(("environ", "key", "expected"), FROM_ENVIRONMENT)
def test_the_environment_sets_a_key(environ: dict[str, str], key: str, expected: object, tmp_path: Path) -> None:
    assert value_of(load(environ, tmp_path), key) == expected


@pytest.mark.parametrize(("environ", "dotenv", "toml", "expected"), PRECEDENCE)
def test_the_environment_takes_precedence_over_dotenv_over_toml_over_the_default(
    environ: dict[str, str], dotenv: str, toml: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(dotenv)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/tiercel.toml").write_text(toml)

    value, _ = entry_of(load(environ, tmp_path), "db.pool_max")

    assert value == expected


@pytest.mark.parametrize(("environ", "expected"), ALIASES)
def test_the_canonical_variable_takes_precedence_over_its_aliases(
    environ: dict[str, str], expected: str, tmp_path: Path
) -> None:
    assert load(environ, tmp_path).settings.db.url == Secret(expected)


def test_an_alias_in_the_environment_takes_precedence_over_the_canonical_variable_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TIERCEL_HTTP__PAGE_SIZE=1\n")

    assert load({"DRF_PAGE_SIZE": "2"}, tmp_path).settings.http.page_size == 2


@pytest.mark.parametrize(
    ("environ", "key", "origin"),
    [
        ({"DATABASE_URL": "host=c"}, "db.url", "environment DATABASE_URL"),
        ({"POSTGRES_HOST": "d", "POSTGRES_DB": "e"}, "db.url", "environment POSTGRES_HOST, POSTGRES_DB"),
        ({"DB_HOST": "d", "DB_NAME": "e"}, "db.url", "environment DB_HOST, DB_NAME"),
        ({"WEB_PORT": "1"}, "server.bind", "environment WEB_PORT"),
        ({"WEB_PORT": "1", "TIERCEL_BIND": "localhost:2"}, "server.bind", "environment TIERCEL_BIND"),
        ({}, "db.url", "default"),
    ],
)
def test_an_entry_has_the_origin_of_its_value(environ: dict[str, str], key: str, origin: str, tmp_path: Path) -> None:
    assert entry_of(load(environ, tmp_path), key)[1] == origin


def test_the_parts_of_a_database_may_be_spread_over_environment_and_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DB_HOST=h\nDB_NAME=d\nDB_PASSWORD=old\n")

    configuration = load({"DB_PASSWORD": "new"}, tmp_path)

    assert configuration.settings.db.url == Secret("host=h dbname=d password=new")
    assert entry_of(configuration, "db.url")[1] == ".env DB_HOST, DB_NAME, environment DB_PASSWORD"


# --- variables without effect -----------------------------------------------------------------------------------------

NO_SQLITE = "SQLite is not supported; unless another database is configured, the embedded PostgreSQL is used"


def unused_of(environ: Mapping[str, str], folder: Path) -> list[tuple[str, str, str]]:
    """Return place, names and reason of the variables that have no effect, with the settings of every plugin."""
    configuration = load(environ, folder)
    configuration.table("observability", ObservabilitySettings)
    configuration.table("trace", TraceSettings)
    return [(each.place, ", ".join(each.variables), each.reason) for each in configuration.unused_variables()]


@pytest.mark.parametrize(
    ("environ", "variables", "reason"),
    [
        ({"DATABASE_URL": "sqlite:///db.sqlite3", "FORCE_SQLITE": "1"}, "FORCE_SQLITE, DATABASE_URL", NO_SQLITE),
        ({"DB_USER": "u", "DB_PASSWORD": "p"}, "DB_USER, DB_PASSWORD", "no host and no name of a database is set"),
        (
            {"DATABASE_URL": "host=a", "DB_HOST": "b", "DB_SSLMODE": "require"},
            "DB_HOST, DB_SSLMODE",
            "environment DATABASE_URL takes precedence",
        ),
        (
            {"DB_HOST": "h", "POSTGRES_HOST": "g", "DB_SSLMODE": "require"},
            "DB_HOST",
            "environment POSTGRES_HOST, DB_SSLMODE takes precedence",
        ),
        ({"SECRET_KEY": "a", "DJANGO_SECRET_KEY": "b"}, "DJANGO_SECRET_KEY", "environment SECRET_KEY takes precedence"),
        ({"WEB_PORT": "1", "TIERCEL_BIND": "localhost:2"}, "WEB_PORT", "environment TIERCEL_BIND takes precedence"),
        ({"POSTGRES_PASS": "p"}, "POSTGRES_PASS", "there is no such variable; did you mean POSTGRES_PASSWORD?"),
        ({"DB_USERNAME": "u"}, "DB_USERNAME", "there is no such variable; did you mean DB_USER?"),
        ({"DATABSE_URL": "h"}, "DATABSE_URL", "there is no such variable; did you mean DATABASE_URL?"),
        (
            {"TIERCL_DATABASE_URL": "h"},
            "TIERCL_DATABASE_URL",
            "there is no such variable; did you mean TIERCEL_DATABASE_URL?",
        ),
    ],
)
def test_a_variable_without_effect_is_reported_with_the_reason(
    environ: dict[str, str], variables: str, reason: str, tmp_path: Path
) -> None:
    assert unused_of(environ, tmp_path) == [("environment", variables, reason)]


def test_every_variable_in_the_table_of_those_without_effect_is_reported(tmp_path: Path) -> None:
    found = unused_of(dict.fromkeys(WITHOUT_EFFECT, "1"), tmp_path)

    assert sorted(name for _, names, _ in found for name in names.split(", ")) == sorted(WITHOUT_EFFECT)
    assert {"API_BASE_URL", "FORCE_SQLITE", "POSTGRES_TEST_DB", "REDIS_URL"} <= WITHOUT_EFFECT.keys()


@pytest.mark.parametrize(
    "environ",
    [
        {name: "5432" for family in DATABASE_FAMILIES[:1] for name in family},
        {name: "5432" for family in DATABASE_FAMILIES[1:] for name in family},
        {
            "DJANGO_DEBUG": "1",
            "DJANGO_SECRET_KEY": "k",
            "DJANGO_ALLOWED_HOSTS": "h",
            "DRF_PAGE_SIZE": "5",
            "WEB_PORT": "1",
        },
        {"DEBUG": "1", "SECRET_KEY": "k", "ALLOWED_HOSTS": "h", "NOTION_TOKEN": "t", "DATABASE_URL": "host=h"},
        {"APM_INGEST_BATCH_SIZE": "1", "APM_INGEST_MAX_EVENTS": "2", "APM_INGEST_MAX_ERRORS": "3"},
        # Of other programs: of containers of PostgreSQL, of services in Kubernetes, of a shell.
        {"POSTGRES_INITDB_ARGS": "a", "POSTGRES_HOST_AUTH_METHOD": "trust", "DB_SERVICE_HOST": "h", "PGDATA": "d"},
        {
            "DB_PORT_5432_TCP": "h",
            "POSTGRES_SERVICE_PORT": "1",
            "PATH": "/bin",
            "WEB_CONCURRENCY": "2",
            "REDIS_HOST": "h",
        },
        {"REDIS_URL": "", "DB_HOST": ""},
    ],
)
def test_variables_that_act_or_belong_to_other_programs_are_not_reported(
    environ: dict[str, str], tmp_path: Path
) -> None:
    assert unused_of(environ, tmp_path) == []


def test_a_variable_of_the_environment_replaces_the_same_one_in_dotenv_without_a_report(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEBUG=1\nDB_HOST=a\nREDIS_URL=redis://cache\n")

    found = unused_of({"DEBUG": "0", "DB_HOST": "b"}, tmp_path)

    assert [(place, names) for place, names, _ in found] == [(".env", "REDIS_URL")]


def test_variables_without_effect_are_logged_before_the_database_is_used(tmp_path: Path, captured: CapturedLog) -> None:
    environ = {"TIERCEL_HOME": str(tmp_path), "TIERCEL_DB__STARTUP_TIMEOUT_S": "0", "REDIS_URL": "redis://cache"}

    with pytest.raises(BootError):
        Tiercel(load({**environ, "TIERCEL_DATABASE_URL": NOWHERE}, tmp_path), log=captured.log).prepare()

    (logged,) = captured.events("variables_without_effect")
    assert (logged["log_level"], logged["place"], logged["variables"]) == ("warning", "environment", "REDIS_URL")
    assert logged["reason"] == WITHOUT_EFFECT["REDIS_URL"]


def test_a_name_in_disabled_that_no_plugin_has_is_logged_at_start(boot: Boot, captured: CapturedLog) -> None:
    service = boot("system", disabled=["sistem", "other"]).service

    service.start()
    service.stop()

    disabled = [(each["name"], each["nearest"]) for each in captured.events("disabled_matches_no_plugin")]
    assert disabled == [("other", None), ("sistem", "system")]


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_named_file_is_read_instead_of_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("debug = true")

    configuration = load({"TIERCEL_CONFIG": "mine.toml"}, tmp_path)

    assert entry_of(configuration, "debug") == ("True", "mine.toml")


def test_the_shipped_file_sets_plugins_that_the_user_does_not_set(tmp_path: Path) -> None:
    shipped = read_shipped_file().values

    configuration = load({"TIERCEL_REQUIRED": ""}, tmp_path)

    assert configuration.settings.plugins == tuple(shipped["plugins"])
    assert entry_of(configuration, "plugins")[1] == "default"
    assert entry_of(configuration, "required") == ("", "environment TIERCEL_REQUIRED")


def test_the_users_file_takes_precedence_over_the_shipped_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("plugins = ['acme.shop']")

    configuration = load({"TIERCEL_CONFIG": "mine.toml"}, tmp_path)

    assert entry_of(configuration, "plugins") == ("acme.shop", "mine.toml")
    assert entry_of(configuration, "required")[1] == "default"


def test_the_shipped_file_sets_nothing_but_plugins() -> None:
    assert read_shipped_file().values.keys() == {"plugins", "required"}


@pytest.mark.parametrize("content", [None, b"debug = ", b"\xff\xfe"])
def test_a_named_file_that_is_missing_or_invalid_is_rejected_by_name(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)

    with pytest.raises(ConfigError, match=r"^mine\.toml: "):
        load({"TIERCEL_CONFIG": "mine.toml"}, tmp_path)


def test_a_bool_is_any_of_the_usual_words_in_any_case() -> None:
    for text, expected in (("1 true T Yes y ON", True), ("0 false F No n OFF", False)):
        for word in text.split():
            assert load({"TIERCEL_DEBUG": word}).settings.debug is expected, word


def test_one_error_names_every_wrong_key_and_value_with_its_place_and_type() -> None:
    problems = problems_of(
        {"TIERCEL_WORKERS": "many", "DEBUG": "perhaps", "TIERCEL_DB__POOL_TIMEOUT_S": "0"},
        {"auth": "closed", "server": {"thread": 4, "threads": "4"}, "http": 5, "plugins": "system"},
    )

    assert set(problems) == {
        "environment TIERCEL_WORKERS: server.workers: Expected int, got 'many'.",
        "environment DEBUG: debug: Expected bool, got 'perhaps'.",
        "environment TIERCEL_DB__POOL_TIMEOUT_S: db.pool_timeout_s: Expected float > 0.0, got '0'.",
        "tiercel.toml: auth: Expected open or required, got 'closed'.",
        "tiercel.toml: server.thread: unknown key; there are bind, workers, threads, timeout_s, graceful_timeout_s, "
        "keepalive_s, connections_max, header_timeout_s, receive_timeout_s, send_timeout_s, client_rate_min_bytes; "
        "did you mean threads?",
        "tiercel.toml: server.threads: Expected int, got '4'.",
        "tiercel.toml: http: Expected a table, got 5.",
        "tiercel.toml: plugins: Expected array, got 'system'.",
    }


@pytest.mark.parametrize("bind", ["127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:", "[::1]:-1", "unix:/t.sock, :x"])
def test_an_invalid_port_is_rejected(bind: str) -> None:
    problems = problems_of({"TIERCEL_BIND": bind})

    assert problems == (f"environment TIERCEL_BIND: server.bind: Expected HOST:PORT or unix:PATH, got {bind!r}.",)


@pytest.mark.parametrize("bind", ["[::1]", "[::1]:0", "localhost", "unix:/run/t.sock", "127.0.0.1:1, unix:/t.sock"])
def test_valid_addresses_to_listen_on_are_accepted(bind: str) -> None:
    assert make_configuration(server={"bind": bind}).settings.server.bind == bind


@pytest.mark.parametrize(
    "url",
    ["sqlite:///db.sqlite3", "sqlite3:db", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@h/d", "hunter2"],
)
def test_the_error_about_the_url_of_another_database_does_not_contain_the_url(url: str) -> None:
    (problem,) = problems_of({"TIERCEL_DATABASE_URL": url})

    assert problem.startswith("environment TIERCEL_DATABASE_URL: ")
    assert "hunter2" not in problem


@pytest.mark.parametrize("key", ["secret_key", "url"])
def test_the_error_about_a_secret_of_the_wrong_type_does_not_contain_the_secret(key: str) -> None:
    file = {"secret_key": 87654} if key == "secret_key" else {"db": {"url": 87654}}

    (problem,) = problems_of({}, file)

    assert "Expected str, got int" in problem
    assert "87654" not in problem


def test_entries_and_representations_do_not_contain_secrets() -> None:
    configuration = make_configuration(secret_key="hunter2", db={"url": "host=h password=hunter2"})

    assert "hunter2" not in f"{configuration.entries()!r} {configuration.settings!r} {configuration.settings.db.url}"
    assert entry_of(configuration, "db.url")[0] == "***"


@pytest.mark.parametrize(
    ("file", "environ", "written"),
    [
        ({"secret_key": "word"}, {}, ("secret_key in test.toml",)),
        ({"secret_key": "word"}, {"SECRET_KEY": "other"}, ()),
        ({}, {"SECRET_KEY": "word"}, ()),
        ({"db": {"url": "postgresql://user:word@host/db"}}, {}, ("db.url in test.toml",)),
        ({"db": {"url": "postgresql://user@host/db"}}, {}, ()),
    ],
)
def test_secrets_in_the_toml_file_are_reported_with_the_file(
    file: dict[str, Any], environ: dict[str, str], written: tuple[str, ...]
) -> None:
    configuration = Configuration(read_environments({"environment": environ}), FileSource("test.toml", file))

    assert configuration.written_secrets() == written


# --- tables of plugins ------------------------------------------------------------------------------------------------


class Inner(Table, frozen=True):
    depth: int = 1


class AlphaSettings(Table, frozen=True):
    size: Annotated[int, env("ALPHA_SIZE"), msgspec.Meta(ge=1)] = 5
    token: Secret | None = None
    inner: Inner = Inner()


class RequiredToken(Table, frozen=True):
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
def test_the_canonical_variable_of_a_plugins_key_takes_precedence_over_its_aliases(
    environ: dict[str, str], expected: int, tmp_path: Path
) -> None:
    table, _ = table_of(tmp_path, environ, "[alpha]\nsize = 6")

    assert table.size == expected


@pytest.mark.parametrize("name", ["BATCH_SIZE", "MAX_EVENTS", "MAX_ERRORS"])
def test_ingest_limits_keep_their_documented_names(name: str, tmp_path: Path) -> None:
    table = load({f"APM_INGEST_{name}": "77"}, tmp_path).table("observability", ObservabilitySettings)

    assert getattr(table, f"ingest_{name.lower()}") == 77


def test_services_return_the_settings_of_the_plugin(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_settings=lambda: AlphaSettings)

    client = boot(alpha, alpha={"size": 9})

    assert client.service.registry.services["alpha"].settings(AlphaSettings).size == 9


def test_entries_and_representations_do_not_contain_secrets_of_plugins(tmp_path: Path) -> None:
    table, configuration = table_of(tmp_path, {"TIERCEL_ALPHA__TOKEN": "hunter2"})

    assert table.token == Secret("hunter2")
    assert "hunter2" not in f"{table!r} {configuration.entries()!r}"


@pytest.mark.parametrize("value", [5, [], "text"])
def test_a_value_in_place_of_a_table_is_rejected_by_name(value: Any, boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_settings=lambda: AlphaSettings)

    with pytest.raises(ConfigError) as caught:
        boot(alpha, alpha=value)

    assert caught.value.problems == (f"test: alpha: Expected a table, got {value!r}.",)


def test_one_error_names_the_wrong_keys_of_all_plugins(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_settings=lambda: AlphaSettings)
    beta = make_plugin("beta", register_settings=lambda: RequiredToken)

    with pytest.raises(ConfigError) as caught:
        boot(alpha, beta, alpha={"size": 0, "sise": 1, "inner": {"depth": "x"}}, gamma={})

    assert caught.value.problems == (
        "test: alpha.sise: unknown key; there are size, token, inner; did you mean size?",
        "test: alpha.size: Expected int >= 1, got 0.",
        "test: alpha.inner.depth: Expected int, got 'x'.",
        "beta.token: is required (str)",
        "test: gamma: unknown key; no plugin has a table of this name",
    )


def test_an_error_of_post_init_names_the_key_and_its_place(tmp_path: Path) -> None:
    configuration = load({"TIERCEL_ALPHA__LAST": "0"}, tmp_path)

    with pytest.raises(ConfigError) as caught:
        configuration.table("alpha", Checked)

    assert caught.value.problems == ("environment TIERCEL_ALPHA__LAST: alpha.last: Expected at least first, got 0.",)


def test_an_unknown_variable_with_the_prefix_is_rejected_by_name(tmp_path: Path) -> None:
    configuration = load({"TIERCEL_PLUGINS": "system", "TIERCEL_DB__POOL_MAXX": "1", "TIERCEL_DEBUGG": "1"}, tmp_path)

    with pytest.raises(ConfigError) as caught:
        Tiercel(configuration)

    assert set(caught.value.problems) == {
        "environment TIERCEL_DB__POOL_MAXX: unknown setting; did you mean TIERCEL_DB__POOL_MAX?",
        "environment TIERCEL_DEBUGG: unknown setting; did you mean TIERCEL_DEBUG?",
    }


def test_variables_without_the_prefix_and_those_of_the_tests_are_ignored(tmp_path: Path) -> None:
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


def test_a_plugin_with_the_name_of_a_kernel_table_is_rejected(boot: Boot, make_plugin: MakePlugin) -> None:
    with pytest.raises(DuplicateError, match=r"settings table 'server' is claimed by both kernel and fakes\.server"):
        boot(make_plugin("server"))


def test_the_error_about_a_nested_table_does_not_contain_its_values() -> None:
    configuration = make_configuration(alpha={"by_name": {"one": {"depth": "hunter2"}}})

    wrong = r"alpha\.by_name: Expected int, got str - at \$\[\.\.\.\]\.depth"
    with pytest.raises(ConfigError, match=wrong) as caught:
        configuration.table("alpha", Named)

    assert "hunter2" not in str(caught.value)


# --- every setting from the environment -------------------------------------------------------------------------------


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
_PART = _TEXT.map(lambda text: text.replace(",", "").strip()).filter(bool)
_URLS = st.sampled_from(["postgresql://u:p%20w@h:1/d", "host=h password='a b'", "postgres:///d?host=/run/pg"])
_BINDS = st.integers(0, 65535).map(lambda port: f"127.0.0.1:{port}") | _TEXT.map(
    lambda text: "unix:" + text.replace(",", "")
)
_SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "TIERCEL_DB__URL": _URLS.map(Secret),
    "TIERCEL_DB__DIRECT_URL": _URLS.map(Secret),
    "TIERCEL_SERVER__BIND": _BINDS,
    "TIERCEL_HTTP__TRUSTED_PROXIES": st.lists(st.sampled_from(["unix", "::1", "10.0.0.0/8"]), max_size=3).map(tuple),
    "TIERCEL_HTTP__CORS_ORIGINS": st.lists(
        st.sampled_from(["https://a.example", "https://*.example.com:8443", "http://[::1]:3000"]), max_size=3
    ).map(tuple),
    "TIERCEL_THROTTLE__BACKEND": st.sampled_from(["database", "memory", "valkeys://u:p%20w@h:1/0"]).map(Secret),
    "TIERCEL_METRICS__TOKEN": st.from_regex(r"[A-Za-z0-9._~+/=-]{16,40}", fullmatch=True).map(Secret),
    "TIERCEL_THROTTLE__RATES": st.dictionaries(
        st.sampled_from(["read", "write", "of-a_plugin"]), st.sampled_from(["1/second", "9000/day", "unlimited"])
    ),
    "TIERCEL_HTTP__CORS_LOCAL_PORTS": st.lists(st.integers(1, 65_535), max_size=3).map(tuple),
}
_BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    str: _TEXT,
    Path: _TEXT.map(Path),
    Secret: _TEXT.filter(lambda text: text.lower() != "null").map(Secret),
    tuple[str, ...]: st.lists(_PART, max_size=4).map(tuple),
    dict[str, str]: st.dictionaries(_TEXT, _TEXT, max_size=3),
}


def keys_of(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """List the keys below a table with their types."""
    for name, field in struct_fields(kind).items():
        inner = nested_struct(field.type)
        if inner is None:
            yield (*path, name), field.type
        else:
            yield from keys_of(inner, (*path, name))


def variable_of(path: tuple[str, ...]) -> str:
    """Return the canonical variable of a key."""
    return PREFIX + "__".join(path).upper()


def values_of(name: str, annotation: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the valid values of a key."""
    kind = base_type(annotation)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    metas = [meta for meta in getattr(annotation, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    least = next((meta.ge for meta in metas if meta.ge is not None), 0)
    most = next((meta.le for meta in metas if meta.le is not None), 2**40)
    if kind is int:
        return st.integers(int(least), int(most))
    if kind is float:
        return st.floats(float(least), float(most), exclude_min=True)
    return _SPECIAL[name] if name in _SPECIAL else _BY_TYPE[kind]


def as_text(value: Any) -> str:
    """Write a value as an environment variable."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return str(value)


KEYS = {path: values_of(variable_of(path), annotation) for path, annotation in keys_of(Settings)}


@given(st.fixed_dictionaries({}, optional=KEYS))
def test_every_valid_setting_can_be_set_from_the_environment(values: dict[tuple[str, ...], Any]) -> None:
    variables = {variable_of(path): as_text(value) for path, value in values.items()}

    settings = Configuration(read_environments({"environment": variables}), FileSource("nothing", {})).settings

    for path, value in values.items():
        found: Any = settings
        for part in path:
            found = getattr(found, part)
        assert found == value, variable_of(path)
