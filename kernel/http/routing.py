"""Mount typed routes on Falcon: policy, parameters, handler, answer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import falcon
import msgspec

from kernel.applications import Applications
from kernel.contracts import Method, Policy, Route
from kernel.conversion import nested_struct
from kernel.errors import BootError, DuplicateError, PluginError
from kernel.http.auth import Authorizer
from kernel.http.bodies import BodyLimits
from kernel.http.params import body_decoder, handler_types, path_decoder, query_decoder
from kernel.http.request import Request
from kernel.http.response import FalconResponse, write

App = falcon.App[Request, FalconResponse]
Responder = Callable[..., None]
# Takes the segments of the path as they are, and may keep the dictionary.
_Inner = Callable[[Request, FalconResponse, dict[str, Any]], None]
_SEGMENT = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
# Behind it stands the slug of an application, where a path has one.
_PUBLIC = "/public/"
APPLICATION = "application"
_NO_QUERY = query_decoder(msgspec.defstruct("NoQuery", []))


class MountedRoute(msgspec.Struct, frozen=True):
    """A route at one of its paths, with the plugin that owns it.

    Args:
        owner: The plugin.
        template: The path without its last slash; what the request log calls the route.
        route: As the plugin returned it.
        is_filtered: Whether this path names an application.
    """

    owner: str
    template: str
    route: Route
    is_filtered: bool = False


def template_of(path: str) -> str:
    """Return a path without its last slash."""
    return path.rstrip("/") or "/"


def expand_routes(owned: Sequence[tuple[str, Route]]) -> tuple[MountedRoute, ...]:
    """List every route once for each of its paths, and refuse two for one method and path.

    Falcon would silently let the second replace the first.

    Raises:
        DuplicateError: Two routes answer the same; names both owners.
    """
    mounted = [each for owner, route in owned for each in _paths(owner, route)]
    seen: dict[tuple[str, str], str] = {}
    for each in mounted:
        for method in methods_of(each.route):
            # Names of segments do not tell two routes apart.
            key = (method, _SEGMENT.sub("{}", each.template))
            if key in seen:
                raise DuplicateError("route", f"{method} {each.template}", (seen[key], each.owner))
            seen[key] = each.owner
    return tuple(mounted)


def _paths(owner: str, route: Route) -> list[MountedRoute]:
    templates = [template_of(path) for path in (route.path, *route.aliases)]
    plain = [MountedRoute(owner, template, route) for template in templates]
    if not route.per_application:
        return plain
    for template in templates:
        if _PUBLIC not in template:
            reason = f"{template}: a route per application needs a segment 'public' before the one of the application"
            raise PluginError(owner, "register_routes", reason)
    filtered = [template.replace(_PUBLIC, f"{_PUBLIC}{{{APPLICATION}}}/", 1) for template in templates]
    return [*plain, *(MountedRoute(owner, template, route, is_filtered=True) for template in filtered)]


def validate_route(route: Route) -> None:
    """Refuse a policy or a method that there is not, such as a misspelt one.

    Raises:
        ValueError: It is wrong.
    """
    if route.policy not in get_args(Policy):
        raise ValueError(f"{route.path}: policy {route.policy!r}: expected {', '.join(get_args(Policy))}")
    if route.method is not None and route.method not in get_args(Method):
        raise ValueError(f"{route.path}: method {route.method!r}: expected {', '.join(get_args(Method))}, or None")


def ensure_no_shadowing(routes: Sequence[MountedRoute], slugs: Sequence[str]) -> None:
    """Refuse applications whose slug is a segment of a route where slugs stand: one could not be reached.

    Raises:
        BootError: There is one; names application and route.
    """
    for each in routes:
        if each.route.per_application and not each.is_filtered:
            taken = each.template.partition(_PUBLIC)[2].partition("/")[0]
            if taken in slugs:
                raise BootError(f"application {taken!r} and the route {each.template} of {each.owner} hide each other")


def methods_of(route: Route) -> tuple[str, ...]:
    """Return the methods a route answers, HEAD and OPTIONS aside."""
    if route.method is not None:
        return (route.method,)
    return tuple(name for name in falcon.HTTP_METHODS if hasattr(route.handler, f"on_{name.lower()}"))


class RequestPipeline(msgspec.Struct, frozen=True):
    """What every request passes before its handler.

    Args:
        authorizer: Checks policies.
        limits: How large a body may be.
        applications: Those that a path may name.
    """

    authorizer: Authorizer
    limits: BodyLimits
    applications: Applications


def mount(app: App, routes: Sequence[MountedRoute], pipeline: RequestPipeline) -> None:
    """Add routes to a Falcon application.

    Args:
        app: Gets one resource a template.
        routes: From ``expand_routes``.
        pipeline: What requests pass.

    Raises:
        PluginError: A handler's annotations or a path do not fit; names the plugin.
    """
    resources: dict[str, Any] = {}
    for mounted in routes:
        resource = resources.setdefault(mounted.template, _Resource())
        try:
            for name, responder in _responders(mounted, pipeline).items():
                setattr(resource, name, responder)
        except TypeError as ex:
            raise PluginError(mounted.owner, "register_routes", f"{mounted.route.path}: {ex}") from ex
    for template, resource in resources.items():
        try:
            app.add_route(template, resource)
        except (ValueError, TypeError) as ex:
            owner = next(mounted.owner for mounted in routes if mounted.template == template)
            raise PluginError(owner, "register_routes", f"{template}: {ex}") from ex


class _Resource:
    """Holds the responders of one template as ``on_get`` and the like, where Falcon looks for them."""


def _responders(mounted: MountedRoute, pipeline: RequestPipeline) -> dict[str, Responder]:
    route = mounted.route
    if route.method is None:
        own = {f"on_{name.lower()}": getattr(route.handler, f"on_{name.lower()}") for name in methods_of(route)}
        return {name: _entered(mounted, pipeline, _own(responder)) for name, responder in own.items()}
    responder = _entered(mounted, pipeline, _typed(mounted, pipeline.limits))
    if route.method == "GET":
        return {"on_get": responder, "on_head": _without_body(responder)}
    return {f"on_{route.method.lower()}": responder}


def _without_body(respond: Responder) -> Responder:
    def responder(request: Request, response: FalconResponse, **segments: Any) -> None:
        respond(request, response, **segments)
        response.close_stream()

    return responder


def _own(respond: Responder) -> _Inner:
    return lambda request, response, segments: respond(request, response, **segments)


def _entered(mounted: MountedRoute, pipeline: RequestPipeline, respond: _Inner) -> Responder:
    template, owner, policy, logged = mounted.template, mounted.owner, mounted.route.policy, mounted.route.logged
    is_filtered, find = mounted.is_filtered, pipeline.applications.find
    check = pipeline.authorizer.check

    def responder(request: Request, response: FalconResponse, **segments: Any) -> None:
        context = request.log_context
        context.template, context.logged = template, logged
        check(request, owner, policy)
        if is_filtered:
            application = segments[APPLICATION] = find(segments[APPLICATION])
            context.application = application.slug
        respond(request, response, segments)

    return responder


def _typed(mounted: MountedRoute, limits: BodyLimits) -> _Inner:
    handler = mounted.route.handler
    if not callable(handler):
        raise TypeError(f"{type(handler).__name__} is no function; a resource goes with method None")
    segments_of_path = set(_SEGMENT.findall(mounted.template))
    if mounted.route.per_application:
        segments_of_path.add(APPLICATION)
    wanted = _parameters(handler, segments_of_path)
    takes_application = mounted.route.per_application and wanted.pop(APPLICATION)
    is_everybodys = takes_application and not mounted.is_filtered
    takes_request = wanted.pop("request", None) is not None
    query = wanted.pop("query", None)
    body = wanted.pop("body", None)
    decode_query = _NO_QUERY if query is None else query_decoder(_struct(query))
    decode_body = None if body is None else body_decoder(body, limits)
    decode_path = [(name, path_decoder(name, kind)) for name, kind in wanted.items()]

    def responder(request: Request, response: FalconResponse, arguments: dict[str, Any]) -> None:
        # The segments of the path are parameters of the handler, each of them.
        for name, decode in decode_path:
            arguments[name] = decode(arguments[name])
        if is_everybodys:
            arguments[APPLICATION] = None
        if takes_request:
            arguments["request"] = request
        values = decode_query(request)
        if query is not None:
            arguments["query"] = values
        if decode_body is not None:
            arguments["body"] = decode_body(request)
        write(response, handler(**arguments))

    return responder


def _struct(annotation: Any) -> type[msgspec.Struct]:
    kind = nested_struct(annotation)
    if kind is None:
        raise TypeError("the annotation of 'query' is no Struct")
    return kind


def _parameters(handler: Callable[..., Any], segments: set[str]) -> dict[str, Any]:
    hints = handler_types(handler)
    found: dict[str, Any] = {}
    for name in inspect.signature(handler).parameters:
        if name not in hints:
            raise TypeError(f"parameter {name!r} of {handler.__qualname__} has no annotation")
        found[name] = hints[name]
    extra: Mapping[str, str] = dict.fromkeys(found.keys() - {"request", "query", "body"} - segments, "is no segment")
    missing = dict.fromkeys(segments - found.keys(), "is no parameter of the handler")
    if extra or missing:
        problems = ", ".join(f"{name!r} {what}" for name, what in sorted({**extra, **missing}.items()))
        raise TypeError(problems)
    return found
