"""Where settings come from, and what is said about wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kernel.config import Configuration, load
from kernel.errors import ConfigError
from kernel.settings import Secret
from kernel.sources import FileSource, environment
from kernel.testing import make_configuration

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
    """Return what is said about a configuration that is refused."""
    with pytest.raises(ConfigError) as caught:
        Configuration((environment(environ),), FileSource("tiercel.toml", file or {}))
    return caught.value.problems


@pytest.mark.parametrize(("environ", "key", "expected"), FROM_ENVIRONMENT)
def test_the_environment_sets_a_key(environ: dict[str, str], key: str, expected: object, tmp_path: Path) -> None:
    assert value_of(load(environ, tmp_path), key) == expected


@pytest.mark.parametrize(("environ", "dotenv", "toml", "expected"), PRECEDENCE)
def test_the_environment_goes_before_dotenv_before_toml_before_the_default(
    environ: dict[str, str], dotenv: str, toml: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(dotenv)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/tiercel.toml").write_text(toml)

    value, _ = entry_of(load(environ, tmp_path), "db.pool_max")

    assert value == expected


@pytest.mark.parametrize(("environ", "expected"), ALIASES)
def test_the_canonical_name_goes_before_its_aliases(environ: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert load(environ, tmp_path).settings.db.url == Secret(expected)


def test_an_alias_in_the_environment_goes_before_the_canonical_name_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TIERCEL_HTTP__PAGE_SIZE=1\n")

    assert load({"DRF_PAGE_SIZE": "2"}, tmp_path).settings.http.page_size == 2


@pytest.mark.parametrize(
    ("environ", "key", "origin"),
    [
        ({"DATABASE_URL": "host=c"}, "db.url", "environment DATABASE_URL"),
        ({"POSTGRES_HOST": "d", "POSTGRES_DB": "e"}, "db.url", "environment POSTGRES_HOST, POSTGRES_DB"),
        ({"WEB_PORT": "1"}, "server.bind", "environment WEB_PORT"),
        ({"WEB_PORT": "1", "TIERCEL_BIND": "localhost:2"}, "server.bind", "environment TIERCEL_BIND"),
        ({}, "db.url", "default"),
    ],
)
def test_an_entry_says_which_source_won(environ: dict[str, str], key: str, origin: str, tmp_path: Path) -> None:
    assert entry_of(load(environ, tmp_path), key)[1] == origin


def test_the_named_file_is_read_instead_of_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("debug = true")

    configuration = load({"TIERCEL_CONFIG": "mine.toml"}, tmp_path)

    assert entry_of(configuration, "debug") == ("True", "mine.toml")


@pytest.mark.parametrize("content", [None, b"debug = ", b"\xff\xfe"])
def test_a_named_file_that_is_missing_or_no_toml_is_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)

    with pytest.raises(ConfigError, match=r"^mine\.toml: "):
        load({"TIERCEL_CONFIG": "mine.toml"}, tmp_path)


def test_every_wrong_key_and_value_is_named_at_once_with_place_and_type() -> None:
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
        "keepalive_s, header_timeout_s, send_timeout_s",
        "tiercel.toml: server.threads: Expected int, got '4'.",
        "tiercel.toml: http: Expected a table, got 5.",
        "tiercel.toml: plugins: Expected array, got 'system'.",
    }


@pytest.mark.parametrize("bind", ["127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:", "[::1]:-1", "unix:/t.sock, :x"])
def test_a_port_that_is_none_is_refused(bind: str) -> None:
    problems = problems_of({"TIERCEL_BIND": bind})

    assert problems == (f"environment TIERCEL_BIND: server.bind: Expected HOST:PORT or unix:PATH, got {bind!r}.",)


@pytest.mark.parametrize("bind", ["[::1]", "[::1]:0", "localhost", "unix:/run/t.sock", "127.0.0.1:1, unix:/t.sock"])
def test_an_address_to_listen_on_is_taken_as_it_is(bind: str) -> None:
    assert make_configuration(server={"bind": bind}).settings.server.bind == bind


@pytest.mark.parametrize(
    "url",
    ["sqlite:///db.sqlite3", "sqlite3:db", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@h/d", "hunter2"],
)
def test_a_url_of_another_database_is_refused_without_repeating_it(url: str) -> None:
    (problem,) = problems_of({"DATABASE_URL": url})

    assert problem.startswith("environment DATABASE_URL: ")
    assert "hunter2" not in problem


@pytest.mark.parametrize("key", ["secret_key", "url"])
def test_a_secret_of_the_wrong_type_is_refused_without_repeating_it(key: str) -> None:
    file = {"secret_key": 87654} if key == "secret_key" else {"db": {"url": 87654}}

    (problem,) = problems_of({}, file)

    assert "Expected str, got int" in problem
    assert "87654" not in problem


def test_secrets_show_neither_in_entries_nor_in_representations() -> None:
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
def test_secrets_in_the_file_are_known_by_their_place(
    file: dict[str, Any], environ: dict[str, str], written: tuple[str, ...]
) -> None:
    configuration = Configuration((environment(environ),), FileSource("test.toml", file))

    assert configuration.written_secrets() == written
