"""The OpenAPI document: how it is served, and what it says of routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from kernel import RawBody, Request, Response, Route, collect_routes, route
from kernel.testing import Client
from tests.kernel.fakes import CapturedLog, boot_service, install_plugin

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


def test_only_a_service_that_authenticates_says_how(document: Any) -> None:
    is_open = Client(boot_service(PLUGINS, CapturedLog().log)).get("/api/schema/").json()
    ingest = document["paths"]["/api/requests/ingest/"]["post"]
    health = document["paths"]["/health/"]["get"]

    assert list(document["components"]["securitySchemes"]) == [
        "apiKey",
        "apiKeyHeader",
        "accessToken",
        "session",
        "password",
    ]
    assert [scopes for each in ingest["security"] for scopes in each.values()] == [["ingest"]] * 5
    assert "Needs the scope `ingest`." in ingest["description"]
    assert health["security"] == []
    assert {"401", "402"} <= ingest["responses"].keys()
    assert "securitySchemes" not in is_open["components"]
    assert all(
        "security" not in each and "401" not in each["responses"]
        for _, path, each in operations(is_open)
        if not path.startswith(("/api/v1/auth/", "/trace/webhooks/"))
    )


def test_tags_are_the_plugins_in_their_order(document: Any) -> None:
    tags = [each["name"] for each in document["tags"]]

    assert tags == ["kernel", "system", "accounts", "observability", "trace", "club"]
    assert all(each["description"] for each in document["tags"])
    assert [each["tags"][0] for _, _, each in operations(document)] == sorted(
        (each["tags"][0] for _, _, each in operations(document)), key=tags.index
    )


# --- what is inferred from a route ----------------------------------------------------------------------------------


class Colour(msgspec.Struct):
    """A colour.

    Args:
        name: What it is called; None if it has no name.
    """

    name: str | None
    parts: msgspec.Raw = msgspec.Raw(b"{}")


class Shape(msgspec.Struct):
    """A shape."""

    corners: Annotated[int, msgspec.Meta(ge=0)] = 0


class Strange:
    """No type that msgspec knows."""


class ShapeQuery(msgspec.Struct, frozen=True):
    """Parameters of shapes.

    Args:
        sizes: Only of these sizes.
    """

    since: datetime | None = None
    sizes: tuple[int, ...] = ()
    page_size: int | None = None


@route("/api/v1/shapes/{number}/", policy="read", method="PUT", errors=(410,), throttle="shapes")
def replace(number: int, query: ShapeQuery, body: Shape) -> Shape | Colour:
    """Replace a ``shape``. It gets other corners.

    Raises:
        NotFoundError: There is none.
    """
    raise NotImplementedError


@route("/colours/", policy="public", method="POST", accepts={"application/json": Colour}, responses={201: Colour})
def create(body: RawBody) -> Response[Colour]:
    """Make a colour."""
    raise NotImplementedError


@route("/strange/", policy="public")
def strange() -> dict[str, Strange]:
    """Show what no schema describes."""
    raise NotImplementedError


class Plain:
    """A Falcon resource."""

    def on_get(self, request: Request, response: object) -> None:
        """Read plainly."""


@pytest.fixture(scope="module")
def paths() -> Iterator[Any]:
    def register_routes() -> Iterable[Route]:
        plain = Route(path="/plain", handler=Plain(), policy="public", method=None)
        return [*collect_routes(replace, create, strange), plain]

    with pytest.MonkeyPatch.context() as patch:
        plugin = install_plugin(patch, "shapes", {"register_routes": register_routes})
        yield Client(boot_service([plugin], CapturedLog().log)).get("/api/schema/").json()


def test_a_route_is_described_by_its_types(paths: Any) -> None:
    operation, schemas = paths["paths"]["/api/v1/shapes/{number}/"]["put"], paths["components"]["schemas"]
    parameters = {each["name"]: each for each in operation["parameters"]}
    success = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]

    assert operation["operationId"] == "shapes_replace"
    assert (operation["summary"], operation["description"]) == (
        "Replace a `shape`",
        "Replace a `shape`. It gets other corners.",
    )
    assert parameters["number"]["schema"] == {"type": "integer"}
    assert [each["format"] for each in parameters["since"]["schema"]["anyOf"]] == ["date-time", "date"]
    assert (parameters["sizes"]["explode"], parameters["sizes"]["description"]) == (False, "Only of these sizes.")
    assert parameters["page_size"]["schema"] == {"type": "integer", "maximum": 1000}
    assert schemas[success]["properties"]["data"]["anyOf"] == [
        {"$ref": "#/components/schemas/Shape"},
        {"$ref": "#/components/schemas/Colour"},
    ]
    assert {"400", "403", "404", "408", "409", "410", "413", "415", "429", "503"} <= operation["responses"].keys()
    assert "RateLimit" in operation["responses"]["200"]["headers"]


def test_what_annotations_cannot_say_is_declared(paths: Any) -> None:
    operation, colour = paths["paths"]["/colours/"]["post"], paths["components"]["schemas"]["Colour"]

    assert operation["requestBody"]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Colour"}}
    }
    assert {"201", "403"} <= operation["responses"].keys()
    assert colour["properties"]["name"]["description"] == "What it is called; null if it has no name."


def test_what_has_no_schema_breaks_nothing(paths: Any) -> None:
    content = paths["paths"]["/strange/"]["get"]["responses"]["200"]["content"]

    assert content == {"application/json": {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}}
    assert paths["paths"]["/plain"]["get"]["summary"] == "Read plainly"
    assert [error.message for error in OpenAPIV31SpecValidator(paths).iter_errors()] == []
