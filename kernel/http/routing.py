"""Serve routes with their handlers.

``expand_routes`` lists every route at each of its paths, and ``mount`` puts a responder on Falcon for each of them. A
responder authorizes the request, finds the application that the path names, decodes path, query string and body into
the types that the handler asks for, calls the handler and writes what it returns.

msgspec's errors are caught where a request is decoded, and nowhere else: raised inside a handler they mean data of our
own, not the client's.
"""

from __future__ import annotations

import http
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args
from urllib.parse import parse_qsl

import falcon
import msgspec
from msgspec.structs import FieldInfo

from kernel.applications import Applications
from kernel.audit import Audit
from kernel.contracts import Handler, Method, Policy, Route
from kernel.conversion import (
    JsonOutline,
    base_type,
    convert_fields,
    describe_type,
    is_sequence,
    nested_struct,
    split_list,
    strip_bom,
    struct_fields,
)
from kernel.deadline import Deadline
from kernel.errors import (
    ApiError,
    BootError,
    DuplicateError,
    InvalidError,
    MalformedError,
    NotFoundError,
    PluginError,
    TooLargeError,
)
from kernel.http.auth import SAFE_METHODS, Authorizer, ensure_policy, ensure_same_origin
from kernel.http.cors import AllowedOrigins
from kernel.http.forms import form_decoder, form_type
from kernel.http.forwarding import network_of
from kernel.http.request import (
    BodyLimits,
    RawBody,
    Request,
    StreamBody,
    decode_path_parameter,
    media_type,
    read_body,
    require_json,
)
from kernel.http.resource_tracking import TRACKING_HEADER, ResourceTracking
from kernel.http.response import FalconResponse, Response, TemplateResponse, write_response
from kernel.http.shell import PageRoute
from kernel.http.templating import Templates
from kernel.identity import Identity, current_identity, set_current_identity
from kernel.limits.throttles import Throttles
from kernel.limits.usage import Usage
from kernel.settings import SCOPE_NAME
from kernel.signatures import accepts_any_keyword, has_parameter, parameter_types, return_type

App = falcon.App[Request, FalconResponse]
Responder = Callable[..., None]
# The path parameter of the application's slug, and the handler's parameter for the application itself.
APPLICATION = "application"
# The slug of an application follows this, in paths that have one.
_PUBLIC = "/public/"
# Every route under this path has the same envelope.
_ENVELOPED = "/api/v1/"
PATH_PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
# Policies of routes that are in the audit log, where they change something. What is ingested is not.
_AUDITED: frozenset[Policy] = frozenset({"authenticated", "write", "staff"})
_ASTERISK = re.compile(r"\*\Z")
_PAGE_WITH_STATUS = Response[TemplateResponse]
QUERY_PARAMETERS_MAX = 200
EMPTY = "This parameter is empty. Leave it out, or give it a value."
# Of JSON that is decoded into a type. A value takes up to 250 bytes.
JSON_VALUES_MAX = 20_000
JSON_DEPTH_MAX = 100
# What forms send although nothing was entered, and what an empty ``cursor`` means: the first page.
MAY_BE_EMPTY = frozenset({"search", "ordering", "cursor"})


# --- routes and their paths -------------------------------------------------------------------------------------------


class MountedRoute(msgspec.Struct, frozen=True):
    """A route at one of its paths, with the plugin that owns it.

    Args:
        owner: The plugin.
        template: The path without its trailing slash; the access log's name for the route.
        route: As the plugin returned it.
        is_filtered: Whether this path names an application.
        throttle: The scope in which its requests are counted; None for none.
        rate_as: The scope whose rate that one has, if it has none of its own.
        takes_form: Whether it takes forms instead of JSON.
    """

    owner: str
    template: str
    route: Route
    is_filtered: bool = False
    throttle: str | None = None
    rate_as: str = ""
    takes_form: bool = False

    @property
    def menu(self) -> str | None:
        """The label of its route, at the first of the paths of that; None at the others."""
        return self.route.menu if self.template == _template_of(self.route.path) else None

    @property
    def is_page(self) -> bool:
        """Whether it is for people: the handler returns an HTML page, by its annotation, or takes a form."""
        return self.takes_form or _is_page(self.route)


def validate_route(route: Route) -> None:
    """Check policy and method of a route.

    Raises:
        ValueError: There is no such policy or method.
    """
    if route.policy not in get_args(Policy):
        raise ValueError(f"{route.path}: policy {route.policy!r}: expected {', '.join(get_args(Policy))}")
    if route.method is not None and route.method not in get_args(Method):
        raise ValueError(f"{route.path}: method {route.method!r}: expected {', '.join(get_args(Method))}, or None")
    if route.throttle is not None and not SCOPE_NAME.fullmatch(route.throttle):
        raise ValueError(f"{route.path}: throttle {route.throttle!r}: expected a name in lower case")


def expand_routes(owned: Sequence[tuple[str, Route]]) -> tuple[MountedRoute, ...]:
    """List every route once for each of its paths: aliases, and the path that names an application.

    Args:
        owned: Routes with the plugins that own them.

    Raises:
        DuplicateError: Two routes have the same method and path, of which Falcon would silently drop the first.
        PluginError: A route per application has no segment ``public``; or the annotations of a handler cannot be
            resolved.
    """
    mounted = [each for owner, route in owned for each in _expand(owner, route)]
    owners: dict[tuple[str, str], str] = {}
    for each in mounted:
        for method in methods_of(each.route):
            # Two templates that differ in the names of their parameters only match the same paths.
            key = (method, PATH_PARAMETER.sub("{}", each.template))
            if key in owners:
                raise DuplicateError("route", f"{method} {each.template}", (owners[key], each.owner))
            owners[key] = each.owner
    return tuple(mounted)


def _expand(owner: str, route: Route) -> list[MountedRoute]:
    templates = [_template_of(path) for path in (route.path, *route.aliases)]
    rate_as = _operation_of(route)
    # Probes and scrapes must be answered while the storage of throttles is away.
    throttle = route.throttle or (None if route.policy == "public" or not route.logged else rate_as)
    try:
        takes_form = _takes_form(route)
    except TypeError as ex:
        raise PluginError(owner, "register_routes", f"{route.path}: {ex}") from ex
    mounted = MountedRoute(owner, "", route, throttle=throttle, rate_as=rate_as, takes_form=takes_form)
    unfiltered = [msgspec.structs.replace(mounted, template=template) for template in templates]
    if not route.per_application:
        return unfiltered
    for template in templates:
        if _PUBLIC not in template:
            reason = f"{template}: a route per application needs a segment 'public' before the one of the application"
            raise PluginError(owner, "register_routes", reason)
    filtered = [template.replace(_PUBLIC, f"{_PUBLIC}{{{APPLICATION}}}/", 1) for template in templates]
    return [
        *unfiltered,
        *(msgspec.structs.replace(mounted, template=template, is_filtered=True) for template in filtered),
    ]


def _template_of(path: str) -> str:
    return path.rstrip("/") or "/"


def _operation_of(route: Route) -> str:
    """Return what requests for a route are counted as, unless it says so itself: ``ingest``, ``read`` or ``write``."""
    if route.policy in {"ingest", "read", "write"}:
        return route.policy
    return "read" if SAFE_METHODS.issuperset(methods_of(route)) else "write"


def _takes_form(route: Route) -> bool:
    return callable(route.handler) and has_parameter(route.handler, "form")


def _is_page(route: Route) -> bool:
    kind = return_type(route.handler) if callable(route.handler) else None
    return kind is TemplateResponse or kind == _PAGE_WITH_STATUS


def list_pages(routes: Sequence[MountedRoute]) -> list[PageRoute]:
    """Return the pages."""
    return [
        PageRoute(
            each.owner,
            each.menu,
            each.route.path,
            each.route.policy,
            each.template,
            takes_application=_takes_application(each.route),
            in_menu=each.route.in_menu,
        )
        for each in routes
        if each.is_page and each.route.method == "GET"
    ]


def _takes_application(route: Route) -> bool:
    """Tell whether the query string of a page has a parameter for the application whose view it shows."""
    handler: Any = route.handler
    return APPLICATION in struct_fields(_query_type(route, parameter_types(handler)))


def ensure_no_shadowing(routes: Sequence[MountedRoute], slugs: Sequence[str]) -> None:
    """Check that no application has the slug of a route's own segment after ``/public/``.

    Raises:
        BootError: One has, so that one of them could not be reached; names application and route.
    """
    for each in routes:
        if each.route.per_application and not each.is_filtered:
            segment = each.template.partition(_PUBLIC)[2].partition("/")[0]
            if segment in slugs:
                raise BootError(
                    f"application {segment!r} and the route {each.template} of {each.owner} hide each other"
                )


def methods_of(route: Route) -> tuple[str, ...]:
    """Return the methods that a route answers, without HEAD and OPTIONS."""
    if route.method is not None:
        return (route.method,)
    return tuple(name for name in falcon.HTTP_METHODS if hasattr(route.handler, f"on_{name.lower()}"))


def is_enveloped(route: Route) -> bool:
    """Tell whether the JSON of a route is the ``data`` of an envelope; that of an alias is as that of its route."""
    return route.path.startswith(_ENVELOPED)


# --- mounting ---------------------------------------------------------------------------------------------------------


class RequestPipeline(msgspec.Struct, frozen=True):
    """What every request passes before its handler, in this order.

    Args:
        authorizer: Finds out who sends a request.
        origins: Those whose pages may use the service.
        tracking: Tracks what a request takes, if it asks for that.
        limits: How large a body may be.
        applications: Those that a path may name.
        throttles: Limit how many requests of a kind somebody may send.
        usage: Counts what accounts use of their plans.
        audit: Records requests that change something.
        templates: Render pages.
        timeout_s: How long a request may work; see ``Deadline``.
    """

    authorizer: Authorizer
    origins: AllowedOrigins
    tracking: ResourceTracking
    limits: BodyLimits
    applications: Applications
    throttles: Throttles
    usage: Usage
    audit: Audit
    templates: Templates
    timeout_s: float

    def admit(self, request: Request, mounted: MountedRoute, path_parameters: dict[str, Any]) -> None:
        """Let a request in: find out who sends it, whether it may use the route, and which application it names.

        Args:
            request: The request.
            mounted: The route that matches its path.
            path_parameters: Those of the path, as text. ``application`` becomes the ``Application``, or None where a
                route per application is mounted without one.

        Raises:
            ApiError: The request may not use the route (see ``Authorizer`` and ``ensure_same_origin``), it is one too
                many, or there is no such application.
        """
        context, policy = request.log_context, mounted.route.policy
        context.template, context.logged = mounted.template, mounted.route.logged
        context.error_body = mounted.route.error_body
        for name, text in path_parameters.items():
            path_parameters[name] = decode_path_parameter(text)
        self.authorizer.ensure_allowed_host(request)
        identity = self.authorizer.authenticate(request, policy)
        set_current_identity(identity)
        # Before anything that such a page could use up for whom it acts for.
        ensure_same_origin(request, identity, self.origins, takes_form=mounted.takes_form)
        if identity is not None:
            ensure_policy(identity, policy)
        if self.throttles.is_on and mounted.throttle is not None:
            context.rate_state = self.throttles.hit(mounted.throttle, caller_of(request, identity), mounted.rate_as)
        if identity is not None:
            self.usage.add_for(identity, "requests", 1)
        if TRACKING_HEADER in request.env:
            self.tracking.begin(request, identity)
        self.authorizer.ensure_not_quarantined(mounted.owner)
        if mounted.is_filtered:
            application = self.applications.find(path_parameters[APPLICATION])
            if identity is not None:
                identity.ensure_application(application.slug)
            path_parameters[APPLICATION] = application
            context.application = application.slug
        elif mounted.route.per_application:
            if identity is not None:
                identity.ensure_application(None)
            path_parameters[APPLICATION] = None
        self.audit.admit(identity)


def caller_of(request: Request, identity: Identity | None) -> str:
    """Return whose requests throttles count: a key, else a user, an account, or where nobody is known, an address.

    Of IPv6, the network of a subscriber counts: an attacker has as many addresses as there are.
    """
    if identity is None or identity.scheme == "open":
        return f"address {network_of(request.env.get('REMOTE_ADDR', ''))}"
    if identity.key is not None:
        return f"key {identity.key}"
    if identity.user is not None:
        return f"user {identity.user}"
    return f"account {identity.account}"


def mount(app: App, routes: Sequence[MountedRoute], pipeline: RequestPipeline) -> None:
    """Add routes to a Falcon application.

    Args:
        app: Gets one resource for each template.
        routes: From ``expand_routes``.
        pipeline: What requests pass before the handlers.

    Raises:
        PluginError: A handler does not fit its route, or a path is wrong; names the plugin.
    """
    resources: dict[str, Any] = {}
    for mounted in routes:
        resource = resources.setdefault(mounted.template, _Resource())
        try:
            for name, responder in _make_responders(mounted, pipeline).items():
                setattr(resource, name, responder)
        except TypeError as ex:
            raise PluginError(mounted.owner, "register_routes", f"{mounted.route.path}: {ex}") from ex
    app.add_sink(_options_of_server, _ASTERISK)
    for template, resource in resources.items():
        try:
            app.add_route(template, resource)
        except (ValueError, TypeError) as ex:
            owner = next(mounted.owner for mounted in routes if mounted.template == template)
            raise PluginError(owner, "register_routes", f"{template}: {ex}") from ex


def _options_of_server(req: Request, resp: FalconResponse, **_groups: Any) -> None:
    """Answer ``OPTIONS *``, which asks for the options of the server, not of a resource (RFC 9110, 9.3.7)."""
    if req.method != "OPTIONS":
        raise NotFoundError(detail=f"no route for {req.path_as_sent}")
    resp.status = falcon.HTTP_204
    resp.set_header("Allow", ", ".join(("OPTIONS", *get_args(Method), "HEAD")))


class _Resource:
    """Holds the responders of one template as ``on_get`` and the like, where Falcon looks for them."""


def _make_responders(mounted: MountedRoute, pipeline: RequestPipeline) -> dict[str, Responder]:
    route = mounted.route
    if route.method is None:
        names = [f"on_{method.lower()}" for method in methods_of(route)]
        responders = {name: _resource_responder(mounted, pipeline, getattr(route.handler, name)) for name in names}
        return {name: _enclose(responder, mounted, pipeline) for name, responder in responders.items()}
    responder = _enclose(_handler_responder(mounted, pipeline), mounted, pipeline)
    if route.method == "GET":
        return {"on_get": responder, "on_head": _without_stream(responder)}
    return {f"on_{route.method.lower()}": responder}


def _resource_responder(mounted: MountedRoute, pipeline: RequestPipeline, responder: Responder) -> Responder:
    """Return the responder of a Falcon resource, which reads the request and writes the response itself."""

    def respond(request: Request, response: FalconResponse, **path_parameters: Any) -> None:
        pipeline.admit(request, mounted, path_parameters)
        responder(request, response, **path_parameters)

    return respond


def _handler_responder(mounted: MountedRoute, pipeline: RequestPipeline) -> Responder:
    """Return the responder of a handler: a function that takes decoded parameters and returns the body.

    Raises:
        TypeError: The handler's parameters do not fit the route.
    """
    route, handler = mounted.route, mounted.route.handler
    if not callable(handler):
        raise TypeError(f"{type(handler).__name__} is not a function; a Falcon resource needs method None")
    # ``application`` is resolved, not decoded, and is not in the path of the unfiltered view.
    application = {APPLICATION} if route.per_application else set()
    path_names = [name for name in PATH_PARAMETER.findall(mounted.template) if name not in application]
    types = parameter_types(handler, {"request", "query", "body", "form", "identity", *path_names, *application})
    if "identity" in types and route.policy == "public":
        raise TypeError(f"{_name_of(handler)} takes an identity, but the route is public: nobody is authenticated")
    _ensure_taken(handler, route, types, [*path_names, *application])
    path_types = {**types, **route.path_types}
    path_decoders = [(name, _path_decoder(name, path_types[name])) for name in path_names]
    decode_query = _query_decoder(_query_type(route, types), of_form=_is_page(route))
    body_name, decode_body = _body_parameter(route, types, pipeline.limits)
    takes_request, takes_query, takes_identity = "request" in types, "query" in types, "identity" in types
    enveloped = is_enveloped(route)

    def write(request: Request, response: FalconResponse, value: object) -> None:
        write_response(request, response, value, pipeline.templates, is_enveloped=enveloped)

    def respond(request: Request, response: FalconResponse, **arguments: Any) -> None:
        pipeline.admit(request, mounted, arguments)
        for name, decode in path_decoders:
            arguments[name] = decode(arguments[name])
        # Also where the handler takes none: an unknown parameter is an error on every route.
        query = decode_query(request)
        if takes_query:
            arguments["query"] = query
        if takes_request:
            arguments["request"] = request
        if takes_identity:
            arguments["identity"] = current_identity()
        if body_name is None:
            write(request, response, handler(**arguments))
            return
        try:
            arguments[body_name] = decode_body(request)
            write(request, response, handler(**arguments))
        finally:
            pipeline.limits.budget.release(request.log_context)

    return respond


def _enclose(responder: Responder, mounted: MountedRoute, pipeline: RequestPipeline) -> Responder:
    """Return a responder with a deadline, whose request is recorded if it changes something, without one for that.

    A response that is streamed is sent after the deadline, within limits of its own.
    """
    is_audited = mounted.route.policy in _AUDITED
    audit, timeout_s = pipeline.audit, pipeline.timeout_s

    def respond(request: Request, response: FalconResponse, **path_parameters: Any) -> None:
        needs_entry = is_audited and request.method not in SAFE_METHODS
        with audit.request(request, mounted.template, needs_entry=needs_entry) as audited:
            with Deadline(timeout_s, request.client):
                responder(request, response, **path_parameters)
            if needs_entry and _is_success(response):
                try:
                    audited.ensure_entry()
                except BaseException:
                    response.close_stream()
                    raise

    return respond


def _is_success(response: FalconResponse) -> bool:
    # A form that was sent redirects to a page.
    return http.HTTPStatus.OK <= response.status_code < http.HTTPStatus.BAD_REQUEST


def _without_stream(responder: Responder) -> Responder:
    """Return the responder of HEAD: Falcon sends no body, but does not close a stream either."""

    def respond(request: Request, response: FalconResponse, **path_parameters: Any) -> None:
        responder(request, response, **path_parameters)
        response.close_stream()

    return respond


# --- what a handler asks for ------------------------------------------------------------------------------------------


def _ensure_taken(handler: Handler, route: Route, types: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that a handler takes every parameter of the path.

    Raises:
        TypeError: It does not, or the route states types of others.
    """
    if unknown := sorted(route.path_types.keys() - set(names)):
        raise TypeError(f"path_types has {', '.join(map(repr, unknown))}, which the path does not have")
    taken = {*types, *(route.path_types if accepts_any_keyword(handler) else ())}
    if missing := [name for name in names if name not in taken]:
        raise TypeError(f"{_name_of(handler)} does not take {', '.join(map(repr, missing))}, which the path has")
    for name in names:
        if types.get(name) is Any and name not in route.path_types:
            raise TypeError(f"parameter {name!r} of {_name_of(handler)} has no annotation")


def _name_of(handler: Handler) -> str:
    return getattr(handler, "__qualname__", repr(handler))


def _query_type(route: Route, types: Mapping[str, Any]) -> type[msgspec.Struct]:
    """Return the Struct of the query string: the one that the route states, or else the handler's annotation.

    Raises:
        TypeError: The handler does not take such a query.
    """
    if "query" not in types:
        if route.query is not None:
            raise TypeError("the route has a query, but its handler does not take 'query'")
        return NoQuery
    annotated = nested_struct(types["query"])
    if annotated is None:
        raise TypeError("the annotation of 'query' is no Struct")
    if route.query is not None and not issubclass(route.query, annotated):
        raise TypeError(f"the handler takes {annotated.__name__}, but {route.query.__name__} is not a subclass of it")
    return route.query or annotated


# --- decoding a request -----------------------------------------------------------------------------------------------


class NoQuery(msgspec.Struct, frozen=True):
    """The query string of a route that takes no parameters."""


def _path_decoder(name: str, kind: Any) -> Callable[[str], Any]:
    """Return the function that converts a parameter of the path. One of another type is a 404: no such resource."""
    if kind is str:
        return lambda text: text

    def not_found(text: str) -> NotFoundError:
        return NotFoundError(detail=f"{name} is not a valid {describe_type(kind)}: {text!r:.80}")

    def decode(text: str) -> Any:
        try:
            value = msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError as ex:
            raise not_found(text) from ex
        # What 1000 names has no other names: msgspec reads 1e3 and 1000.0 as the same number.
        if type(value) is int and not text.removeprefix("-").isdigit():
            raise not_found(text)
        return value

    return decode


def _query_decoder(kind: type[msgspec.Struct], *, of_form: bool) -> Callable[[Request], msgspec.Struct]:
    """Return the function that decodes a query string.

    It raises ``InvalidError``, which names every unknown, repeated or wrong parameter.

    Args:
        kind: The parameters.
        of_form: Whether those that are empty are left out: browsers send all fields of a form, filled in or not.
    """
    fields = struct_fields(kind)
    defaults = None if any(field.required for field in fields.values()) else kind()

    def decode(request: Request) -> msgspec.Struct:
        text = request.query_string
        if not text and defaults is not None:
            return defaults
        raw, repeated = _read_query(text, fields)
        if of_form:
            raw = {name: value for name, value in raw.items() if value.strip()}
        values, errors = convert_fields(raw, kind, strict=False)
        errors |= repeated | _name_empty(raw, fields)
        for name in raw.keys() - fields.keys():
            errors[name] = [f"Unknown parameter. There are: {', '.join(fields) or 'none'}."]
        if errors:
            names = ", ".join(sorted(errors))
            raise InvalidError(f"Some parameters are wrong: {names}.", errors=dict(sorted(errors.items())))
        try:
            return kind(**values)
        except (ValueError, TypeError) as ex:
            # ``__post_init__`` raises these where values contradict each other, as msgspec documents.
            raise InvalidError("The parameters contradict each other.", detail=str(ex)) from ex

    return decode


def _read_query(text: str, fields: Mapping[str, FieldInfo]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Split a query string into values by name, and messages by name of what is given more than once."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_PARAMETERS_MAX, errors="strict")
    except ValueError as ex:
        raise MalformedError("The query string could not be understood.", detail=str(ex)) from ex
    bare = {each for each in text.split("&") if "=" not in each}
    raw: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in pairs:
        kind = fields[name].type if name in fields else None
        if name in raw and is_sequence(kind):
            raw[name] = f"{raw[name]},{value}"
        elif name in raw:
            repeated.setdefault(name, [raw[name]]).append(value)
        else:
            raw[name] = "true" if name in bare and base_type(kind) is bool else value
    message = "This parameter is given more than once: {:.120}."
    return raw, {name: [message.format(", ".join(map(repr, values)))] for name, values in repeated.items()}


def _name_empty(raw: Mapping[str, str], fields: Mapping[str, FieldInfo]) -> dict[str, list[str]]:
    """Return a message for each parameter that is empty and may not be, by name.

    Left to the types, an empty text would select what has an empty text, and an empty list everything.
    """
    return {
        name: [EMPTY]
        for name, value in raw.items()
        if name in fields
        and name not in MAY_BE_EMPTY
        and not (split_list(value) if is_sequence(fields[name].type) else value.strip())
    }


def _body_parameter(
    route: Route, types: Mapping[str, Any], limits: BodyLimits
) -> tuple[str | None, Callable[[Request], Any]]:
    """Return the parameter that a handler takes the body as, with the function that decodes it; None for none.

    Raises:
        TypeError: It takes a form, and the route has another method than POST, or it takes the body as well.
    """
    if "form" not in types:
        return "body" if "body" in types else None, _body_decoder(types.get("body"), limits, route.body_max_bytes)
    if route.method != "POST" or "body" in types:
        raise TypeError("a handler that takes a form is one of POST, and takes no body")
    return "form", form_decoder(form_type(types["form"]), limits.at_most(route.body_max_bytes))


def _body_decoder(kind: Any, outer_limits: BodyLimits, max_bytes: int) -> Callable[[Request], Any]:
    """Return the function that decodes a body: JSON into a type; ``RawBody`` and ``StreamBody`` are not decoded."""
    if kind is StreamBody:
        return lambda request: StreamBody(request, outer_limits)
    limits = outer_limits.at_most(max_bytes)
    if kind is RawBody:
        return lambda request: RawBody(read_body(request, limits), media_type(request))
    decoder = msgspec.json.Decoder(kind)

    def decode(request: Request) -> Any:
        require_json(request)
        content = strip_bom(read_body(request, limits))
        _ensure_bounded(content)
        try:
            return decoder.decode(content)
        except msgspec.ValidationError as ex:
            raise _invalid_body(content, kind, ex) from ex
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
            raise _malformed_json(ex) from ex

    return decode


def _ensure_bounded(content: bytes) -> None:
    """Check how many values and levels JSON has, before it is decoded.

    Raises:
        TooLargeError: Too many values.
        MalformedError: Too many levels.
    """
    openings = content.count(b"[") + content.count(b"{")
    # Strings may have commas and brackets as well: few bodies have so many that it matters.
    if openings <= JSON_DEPTH_MAX and openings + content.count(b",") < JSON_VALUES_MAX:
        return
    outline = JsonOutline(content)
    if outline.count_values() > JSON_VALUES_MAX:
        raise TooLargeError(detail=f"the body has more than {JSON_VALUES_MAX} values")
    if outline.depth() > JSON_DEPTH_MAX:
        raise MalformedError("The body is nested too deeply.", detail=f"it has more than {JSON_DEPTH_MAX} levels")


def _malformed_json(error: Exception) -> MalformedError:
    return MalformedError("The body is not valid JSON.", detail=str(error))


def _invalid_body(content: bytes, kind: Any, error: msgspec.ValidationError) -> ApiError:
    """Return the error that names every wrong field of a body.

    Args:
        content: JSON that does not fit.
        kind: The type that it should have.
        error: The first problem, which is all that msgspec reports; used where the type is no Struct.
    """
    try:
        raw = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as ex:
        # msgspec stopped at a wrong value before it reached the place where the JSON breaks.
        return _malformed_json(ex)
    first_problem = InvalidError("The body is wrong.", detail=str(error).replace("`", ""))
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return first_problem
    if not isinstance(raw, dict):
        message = f"Invalid data. Expected an object, got {type(raw).__name__}."
        return InvalidError("The body is wrong.", errors={"non_field_errors": [message]})
    _, errors = convert_fields(raw, kind)
    if not errors:
        return first_problem
    return InvalidError(f"Some fields are wrong: {', '.join(sorted(errors))}.", errors=errors)
