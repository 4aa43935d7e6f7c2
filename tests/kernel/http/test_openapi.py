"""The OpenAPI document: how it is served, and what it says of routes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from kernel.testing import Client
from tests.kernel.fakes import CapturedLog, boot_service

PLUGINS = ("system", "accounts", "observability", "trace", "club", "contrib.skyflow", "contrib.nexus")


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(boot_service(PLUGINS, CapturedLog().log, auth="required"))


@pytest.fixture(scope="module")
def document(client: Client) -> Any:
    return client.get("/api/schema/").json()


def test_it_is_valid(document: Any) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_it_is_served_as_yaml_too(client: Client, document: Any) -> None:
    by_query = client.get("/api/schema/?format=yaml")
    by_header = client.get("/api/schema", headers={"Accept": "application/yaml"})

    assert by_query.headers["content-type"] == by_header.headers["content-type"] == "application/yaml"
    assert by_query.content == by_header.content
    assert yaml.load(by_query.content, yaml.CSafeLoader) == document
    assert b"&id" not in by_query.content


def test_a_client_that_has_it_gets_a_304(client: Client) -> None:
    plain, coded = client.get("/api/schema/"), client.get("/api/schema/", headers={"Accept-Encoding": "gzip"})
    etags = [answer.headers["etag"] for answer in (plain, coded, client.get("/api/schema/?format=yaml"))]
    again = client.get("/api/schema/", headers={"If-None-Match": etags[0]})

    assert coded.headers["content-encoding"] == "gzip"
    assert len(coded.content) < len(plain.content) / 4
    assert len(set(etags)) == 3
    assert (again.status, again.content) == (304, b"")
    assert client.get("/api/schema/", headers={"If-Match": '"other"'}).status == 412


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [(method, path, each) for path, item in document["paths"].items() for method, each in item.items()]


def test_every_route_is_described(document: Any) -> None:
    missing = [f"{method} {path}" for method, path, each in operations(document) if not each["summary"]]
    ids = [each["operationId"] for _, _, each in operations(document)]

    assert missing == []
    assert len(ids) == len(set(ids))
