"""Paths become templates: by default in imports, for clients only if switched on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernel.config import load
from kernel.errors import ConfigError
from kernel.testing import Client
from plugins.observability.path_templates import DEFAULT_TEMPLATES, Templates
from plugins.observability.settings import ObservabilitySettings
from tests.conftest import Serve
from tests.plugins.observability.accesslogs import combined_line, import_text, stored
from tests.plugins.observability.events import create, make_event, make_events, post_bytes, post_ingest, raw_event

DEFAULT = Templates(DEFAULT_TEMPLATES)
UUID = "0190163d-8694-739b-aea5-966c26f8ad91"
HASH = "9f86d081884c7d65"
ON = {"template_ingest": True}

segments = (
    st.sampled_from(["", "users", "42", UUID, UUID.upper(), HASH, "{id}", "v1", "..", "%2F"])
    | st.text("0123456789abcdefABCDEF-", max_size=40)
    | st.text(max_size=20)
)
paths = st.lists(segments, max_size=8).map("/".join) | st.text(max_size=100)


def log_of(*targets: str) -> bytes:
    """Make a log of requests for some targets."""
    return b"".join(combined_line(request=f"GET {target} HTTP/1.1") + b"\n" for target in targets)


def places(client: Client) -> list[tuple[str, str | None]]:
    """Return endpoint and kept path of every event."""
    return sorted((event["endpoint"], event["tags"].get("path")) for event in stored(client))


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/users/42", "/users/{id}"),
        ("/users/42/orders/7/", "/users/{id}/orders/{id}/"),
        ("/0", "/{id}"),
        ("/" + "1" * 40, "/{id}"),
        (f"/users/{UUID}", "/users/{uuid}"),
        (f"/users/{UUID.upper()}/x", "/users/{uuid}/x"),
        (f"/assets/{HASH}", "/assets/{hash}"),
        (f"/assets/{HASH.upper()}", "/assets/{hash}"),
    ],
)
def test_numbers_uuids_and_hashes_are_named(path: str, template: str) -> None:
    assert DEFAULT.apply(path) == template


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "//",
        "/api/v1/users",
        "/users/42a",
        "/users/-42",
        "/users/\u0664\u0662",  # digits, but no number of a programmer's
        "/deadbeefdeadbeefdead",  # letters alone
        "/" + HASH[:15],
        f"/{HASH}.js",
        f"/x{UUID}",
        UUID.replace("-", "_"),
    ],
)
def test_other_segments_stay_unchanged(path: str) -> None:
    assert DEFAULT.apply(path) == path


@given(paths)
@example("/users/42\n")
def test_templates_keep_the_number_of_segments_and_are_idempotent(path: str) -> None:
    template = DEFAULT.apply(path)

    assert template.count("/") == path.count("/")
    assert DEFAULT.apply(template) == template


def test_the_first_rule_that_matches_a_whole_segment_names_it() -> None:
    templates = Templates({"4.": "{forties}", "[0-9]+": "{id}", ".*": "{any}"})

    assert templates.apply("/42/421/x") == "/{forties}/{id}/{any}"


@pytest.mark.parametrize(
    ("pattern", "name", "reason"),
    [
        ("(", "{id}", "'(' is not a regular expression"),
        ("a{99999999999}", "{id}", "'a{99999999999}' is not a regular expression"),
        ("x", "", "'' is not a valid name for a segment"),
        ("x", "a/b", "'a/b' is not a valid name for a segment"),
        ("x", "a\x00", "'a\\x00' is not a valid name for a segment"),
    ],
)
def test_a_wrong_rule_is_an_error_of_the_configuration(pattern: str, name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tiercel.toml").write_text(f"[observability]\ntemplates = {{ {quoted(pattern)} = {quoted(name)} }}\n")
    configuration = load({"TIERCEL_CONFIG": "tiercel.toml"}, tmp_path)

    with pytest.raises(ConfigError) as caught:
        configuration.table("observability", ObservabilitySettings)

    (problem,) = caught.value.problems
    assert problem.startswith(f"tiercel.toml: observability.templates: {reason}")


def quoted(text: str) -> str:
    return '"' + text.replace("\x00", "\\u0000") + '"'


def test_the_environment_takes_rules_as_json(tmp_path: Path) -> None:
    environ = {"TIERCEL_OBSERVABILITY__TEMPLATES": '{"[a-z]{2}": "{language}"}'}

    table = load(environ, tmp_path).table("observability", ObservabilitySettings)

    assert table.templates == {"[a-z]{2}": "{language}"}


def test_an_import_stores_templates_and_keeps_the_paths(serve: Serve, tmp_path: Path) -> None:
    client = serve()

    imported = import_text(client, tmp_path, log_of("/users/42?x=1", "/users/43", "/users"))

    assert imported.counts == (3, 0, 0)
    assert places(client) == [("/users", None), ("/users/{id}", "/users/42"), ("/users/{id}", "/users/43")]
    assert {event["tags"].get("query") for event in stored(client)} == {"x=1", None}


@pytest.mark.parametrize(
    ("settings", "option", "endpoint"),
    [
        ({}, "--no-templates", "/users/42"),
        ({"template_imports": False}, "--json", "/users/42"),
        ({"template_imports": False}, "--templates", "/users/{id}"),
        ({"templates": {}}, "--templates", "/users/42"),
        ({"templates": {"users": "{table}"}}, "--templates", "/{table}/42"),
    ],
)
def test_templates_of_an_import_can_be_switched(
    serve: Serve, tmp_path: Path, settings: dict[str, Any], option: str, endpoint: str
) -> None:
    client = serve(observability=settings)

    import_text(client, tmp_path, log_of("/users/42"), option)

    assert [event["endpoint"] for event in stored(client)] == [endpoint]


def test_a_file_that_was_imported_without_templates_is_not_imported_again_with_them(
    serve: Serve, tmp_path: Path
) -> None:
    client = serve()
    import_text(client, tmp_path, log_of("/users/42", "/users/43"), "--no-templates")

    again = import_text(client, tmp_path, log_of("/users/42", "/users/43"))

    assert again.counts == (0, 2, 0)


def test_events_of_json_lines_become_templates_as_well(serve: Serve, tmp_path: Path) -> None:
    client = serve()

    import_text(client, tmp_path, raw_event(endpoint='"/users/42"') + b"\n")

    assert places(client) == [("/users/{id}", "/users/42")]


def test_a_path_that_is_too_long_is_preserved_whole(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    path = "/1" * 127 + "/23/45"

    import_text(client, tmp_path, log_of(path))

    (event,) = stored(client)
    assert event["endpoint"] == ("/{id}" * 127)[:255]
    assert event["tags"]["path"] == path


def test_endpoints_of_clients_are_not_templated_by_default(serve: Serve) -> None:
    client = serve()

    post_ingest(client, [make_event(endpoint="/users/42")])
    create(client, endpoint="/users/43")

    assert places(client) == [("/users/42", None), ("/users/43", None)]


def test_templates_can_be_switched_on_for_clients(serve: Serve) -> None:
    client = serve(observability=ON)
    post_ingest(client, [make_event(endpoint="/users/42")])
    url = create(client, endpoint="/orders/7")

    changed = client.request("PATCH", create(client), json={"endpoint": "/bills/9"}).json()

    assert client.get(url).json()["endpoint"] == "/orders/{id}"
    assert (changed["endpoint"], changed["tags"]["path"]) == ("/bills/{id}", "/bills/9")
    assert places(client)[-1] == ("/users/{id}", "/users/42")


def test_existing_tags_stay_unchanged(serve: Serve) -> None:
    client = serve(observability=ON)
    event = raw_event(endpoint='"/users/42"', tags='{"path": "/mine", "n": 12345678901234567890.5}')

    post_bytes(client, b"[" + event + b"]")

    (found,) = stored(client)
    assert (found["tags"]["path"], found["tags"]["path_"]) == ("/mine", "/users/42")
    assert b"12345678901234567890.5" in client.get("/api/requests/").content


def test_paths_of_one_template_are_distinct_events_under_one_key(serve: Serve) -> None:
    client = serve(observability=ON)
    events = [make_event(endpoint="/users/42"), make_event(endpoint="/users/43")]
    headers = {"Idempotency-Key": "k"}

    inserted = [client.post("/api/requests/ingest/", [event], headers=headers).json()["inserted"] for event in events]

    assert inserted == [1, 1]


def test_a_batch_of_many_paths_is_one_series(serve: Serve) -> None:
    client = serve(observability={**ON, "series_max": 1, "log_own_requests": False})

    answer = post_ingest(client, [{**event, "endpoint": f"/users/{at}"} for at, event in enumerate(make_events(50))])

    assert (answer.json()["inserted"], answer.json()["capped"]) == (50, 0)
