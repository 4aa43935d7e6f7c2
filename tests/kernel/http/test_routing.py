"""Paths, slashes and methods; wrong routes are refused at boot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import falcon
import msgspec
import pytest

from kernel.contracts import Method, Policy, Route, collect_routes
from kernel.contracts import route as route_decorator
from kernel.errors import PluginError
from kernel.http.request import Request
from kernel.http.response import Response
from kernel.testing import Client
from tests.kernel.fakes import Boot, MakePlugin

Mount = Callable[..., Client]


class Resource:
    """A Falcon resource, for full control."""

    def on_get(self, request: Request, response: falcon.Response, name: str) -> None:
        response.text = f"hello {name}"

    def on_delete(self, request: Request, response: falcon.Response, name: str) -> None:
        response.status = falcon.HTTP_204


class Query(msgspec.Struct, frozen=True):
    size: int = 1


class WiderQuery(Query, frozen=True):
    colour: str = ""


class Path(msgspec.Struct, frozen=True):
    """No parameters of a handler here."""


def hello() -> str:
    """Answer."""
    return "hello"


def show(name: str) -> str:
    """Answer."""
    return name


def remove(name: str) -> Response[None]:
    """Answer with nothing."""
    return Response(None, 204)


def path_of(request: Request) -> str:
    """Return the path as sent."""
    return request.path_as_sent


def without_annotation(name) -> str:  # type: ignore[no-untyped-def]
    """Lack an annotation."""
    return str(name)


def unknown_type(body: object) -> None:
    """Ask for what nothing defines."""


unknown_type.__annotations__["body"] = "Unknown"


def wrong_query(query: int) -> int:
    """Ask for a query that is no Struct."""
    return query


def size_of(query: Query) -> int:
    """Return a parameter."""
    return query.size


def show_all(query: Query, **path_parameters: Any) -> list[Any]:
    """Serve several routes: return the arguments."""
    return [query, path_parameters]


def route(path: str, handler: object = hello, method: Method | None = "GET", **given: Any) -> Route:
    """Return a public route."""
    return Route(path=path, handler=handler, method=method, policy="public", **given)


@pytest.mark.parametrize("mounted", ["/hello/", "/hello"])
@pytest.mark.parametrize("asked", ["/hello/", "/hello"])
def test_a_path_works_with_and_without_its_trailing_slash(mounted: str, asked: str, mount: Mount) -> None:
    assert mount(route(mounted)).get(asked).json() == "hello"


def test_a_route_is_served_at_its_aliases(mount: Mount) -> None:
    client = mount(route("/api/v1/hello/", aliases=("/api/hello/",)))

    assert [client.get(path).status for path in ("/api/v1/hello/", "/api/hello", "/hello/")] == [200, 200, 404]


def test_the_root_can_be_a_route(mount: Mount) -> None:
    assert mount(route("/")).get("/").json() == "hello"


def test_a_path_parameter_is_percent_decoded(mount: Mount) -> None:
    assert mount(route("/x/{name}/", show)).get("/x/caf%C3%A9%20au%20lait/").json() == "café au lait"


@pytest.mark.parametrize("path", ["/p", "/p/"])
def test_a_handler_can_see_the_path_as_it_was_sent(path: str, mount: Mount) -> None:
    assert mount(route("/p/", path_of)).get(path).json() == path


def test_head_answers_as_get_without_a_body(mount: Mount) -> None:
    client = mount(route("/hello/"))

    head, get = client.request("HEAD", "/hello/"), client.get("/hello/")

    assert (head.status, head.content) == (200, b"")
    assert {name: value for name, value in head.headers.items() if name.startswith("content-")} == {
        name: value for name, value in get.headers.items() if name.startswith("content-")
    }


def test_options_lists_the_methods(mount: Mount) -> None:
    client = mount(route("/x/{name}/", show), route("/x/{name}/", remove, "DELETE"))

    answer = client.request("OPTIONS", "/x/1/")

    assert answer.status == 200
    assert set(answer.headers["allow"].split(", ")) >= {"GET", "HEAD", "DELETE"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_wrong_method_is_a_405_that_lists_the_allowed_ones(method: str, mount: Mount) -> None:
    client = mount(route("/x/{name}/", show), route("/x/{name}/", remove, "DELETE"))

    answer = client.request(method, "/x/1/")

    assert (answer.status, answer.json()["detail"]) == (405, f"{method} /x/1/")
    assert set(answer.headers["allow"].split(", ")) >= {"GET", "HEAD", "DELETE"}
    assert method not in answer.headers["allow"]


def test_two_plugins_may_share_a_path_with_different_methods(boot: Boot, make_plugin: MakePlugin) -> None:
    alpha = make_plugin("alpha", register_routes=lambda services: [route("/x/{name}/", show)])
    beta = make_plugin("beta", register_routes=lambda services: [route("/x/{name}/", remove, "DELETE")])

    client = boot(alpha, beta)

    assert (client.get("/x/1/").status, client.request("DELETE", "/x/1/").status) == (200, 204)


def test_a_falcon_resource_can_be_a_route(mount: Mount) -> None:
    client = mount(route("/x/{name}/", Resource(), None))

    assert client.get("/x/you/").content == b"hello you"
    assert client.request("DELETE", "/x/you/").status == 204
    assert client.post("/x/you/").status == 405


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (route("/x/{name}/", hello), "hello does not take 'name', which the path has"),
        (route("/x/", show), "show takes 'name'; it can be given body, form, identity, query, request"),
        (route("/x/{name}/", without_annotation), "'name' of without_annotation has no annotation"),
        (route("/x/", unknown_type, "POST"), "/x/: the annotations of unknown_type cannot be resolved at run time"),
        (route("/x/", wrong_query), "the annotation of 'query' is no Struct"),
        (route("/x/", hello, query=Query), "the route has a query, but its handler does not take 'query'"),
        (route("/x/", size_of, query=Path), "the handler takes Query, but Path is not a subclass of it"),
        (route("/x/{name}/", show_all), "show_all does not take 'name', which the path has"),
        (route("/x/{name}/", show, path_types={"id": int}), "path_types has 'id', which the path does not have"),
        (route("x/", hello), "x"),
        (route("/x/", Resource()), "Resource is not a function; a Falcon resource needs method None"),
        (route("/x/", method=cast("Method", "get")), "/x/: method 'get': expected GET, POST, PUT, PATCH, DELETE"),
        (Route(path="/x/", handler=hello, policy=cast("Policy", "pubic")), "/x/: policy 'pubic': expected public, "),
    ],
)
def test_a_wrong_route_stops_the_boot_and_names_its_plugin(wrong: Route, reason: str, mount: Mount) -> None:
    with pytest.raises(PluginError) as caught:
        mount(wrong, required=["alpha"])

    assert (caught.value.plugin, caught.value.hook) == ("alpha", "register_routes")
    assert reason in caught.value.reason


def test_a_handler_of_several_routes_gets_the_query_and_path_types_of_each(mount: Mount) -> None:
    path_types = {"name": str, "number": int}
    client = mount(
        route("/x/{name}/{number}/", show_all, query=WiderQuery, path_types=path_types),
        route("/y/{name}/", show_all, path_types={"name": str}),
    )

    assert client.get("/x/a/5/?colour=red").json() == [{"size": 1, "colour": "red"}, {"name": "a", "number": 5}]
    assert client.get("/x/a/five/").status == 404
    assert client.get("/y/a/?size=2").json() == [{"size": 2}, {"name": "a"}]
    assert client.get("/y/a/?colour=red").status == 400


def test_path_types_override_annotations(mount: Mount) -> None:
    assert mount(route("/x/{name}/", show, path_types={"name": int})).get("/x/5/").json() == 5


def test_a_route_needs_a_policy() -> None:
    with pytest.raises(TypeError, match="policy"):
        Route(path="/x/", handler=hello)  # type: ignore[call-arg] # that is what is tested


def test_path_parameters_of_one_path_must_have_the_same_names(mount: Mount) -> None:
    def show_other(other: str) -> str:
        return other

    with pytest.raises(PluginError, match="alpha"):
        mount(route("/x/{name}/", show), route("/x/{other}/", show_other, "DELETE"), required=["alpha"])


@pytest.mark.parametrize("order", [("/x/{name}/", "/x/special/"), ("/x/special/", "/x/{name}/")])
def test_a_literal_segment_takes_precedence_over_a_parameter(order: Iterable[str], mount: Mount) -> None:
    client = mount(*(route(path, show if "{" in path else hello) for path in order))

    assert (client.get("/x/special/").json(), client.get("/x/other/").json()) == ("hello", "other")


class Greetings:
    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    @route_decorator("/greetings/{name}/", policy="read", aliases=("/hi/{name}/",), menu="greetings")
    def show(self, name: str) -> str:
        return f"{self._greeting}, {name}!"

    @route_decorator("/greetings/", policy="write", method="POST", logged=False)
    def create(self) -> str:
        return self._greeting


def test_collect_routes_returns_what_the_decorator_declared() -> None:
    greetings = Greetings("Hello")

    show, create = collect_routes(greetings.show, greetings.create)

    assert show == Route(
        path="/greetings/{name}/", handler=greetings.show, policy="read", aliases=("/hi/{name}/",), menu="greetings"
    )
    assert create == Route(path="/greetings/", handler=greetings.create, policy="write", method="POST", logged=False)


def test_collect_routes_refuses_a_handler_that_is_not_decorated() -> None:
    with pytest.raises(TypeError, match="undecorated is not decorated with @route"):
        collect_routes(undecorated)


def undecorated() -> None:
    """Lack the decorator."""
