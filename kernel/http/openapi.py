"""The OpenAPI document of the service, from the typed routes: what decodes a request describes it.

Source: https://spec.openapis.org/oas/v3.1.1.html. Schemas are those of ``msgspec.json.schema_components``. Everything
else is inferred from what the routing does with a route: which errors it can be answered with from its policy, its
throttle, its path and its body; the body of a success from the annotation of its handler. Where an annotation cannot
say it, ``Route.responses`` and ``Route.accepts`` do.

``make_document`` makes the document, ``DocumentRoutes`` serves it at ``/api/schema/``.
"""

from __future__ import annotations

import hashlib
import re
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any, Literal

import falcon
import msgspec
from msgspec.structs import FieldInfo

from kernel import errors
from kernel.contracts import ErrorBody, Example, Route, collect_routes, route
from kernel.conversion import base_type, is_sequence, nested_struct, struct_fields, without_none
from kernel.docstrings import describe, describe_arguments
from kernel.errors import ApiError
from kernel.http.auth import SAFE_METHODS
from kernel.http.compression import CODINGS, accepted_coding, compress
from kernel.http.conditional import is_unmodified
from kernel.http.request import RawBody, Request, StreamBody
from kernel.http.response import (
    Envelope,
    PreparedResponse,
    Response,
    StreamingResponse,
)
from kernel.http.routing import APPLICATION, MAY_BE_EMPTY, PATH_PARAMETER, MountedRoute, is_enveloped, methods_of

OPENAPI_VERSION = "3.1.1"
JSON, YAML = "application/json", "application/yaml"
Object = dict[str, Any]
_SCHEMAS = "#/components/schemas/"
# Segments that tell operations apart only where others have the same name.
_COMMON_SEGMENTS = frozenset({"api", "v1", "public"})
_ERROR = {"$ref": f"{_SCHEMAS}Error"}
_PROBLEM = {"$ref": f"{_SCHEMAS}Problem"}
_RATE_HEADERS = ("RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_IF_NONE_MATCH = Annotated[
    str, msgspec.Meta(description="The `ETag` of what the client has: 304 if it is still the same.")
]
_LINES = frozenset({"application/x-ndjson", "text/event-stream"})


class Plugin(msgspec.Struct, frozen=True):
    """What the document says of a plugin.

    Args:
        name: Its name, a tag.
        docstring: Of its module.
    """

    name: str
    docstring: str | None


class Described(msgspec.Struct, frozen=True):
    """What a document is made of.

    Args:
        version: Of the service.
        plugins: In the order of their tags.
        routes: All mounted routes.
        applications: Slugs of all applications.
        security_schemes: How requests are authenticated; empty if they are not.
        page_size_max: The largest page that a client may ask for.
        unified_errors: Whether errors have a body of ours, or that of Falcon.
    """

    version: str
    plugins: Sequence[Plugin]
    routes: Sequence[MountedRoute]
    applications: Sequence[str]
    security_schemes: Mapping[str, Mapping[str, Any]]
    page_size_max: int
    unified_errors: bool = True


# --- serving ----------------------------------------------------------------------------------------------------------


class DocumentQuery(msgspec.Struct, frozen=True):
    """Parameters of the document.

    Args:
        format: ``json`` or ``yaml``; without it, ``Accept`` decides.
    """

    format: Literal["json", "yaml"] | msgspec.UnsetType = msgspec.UNSET


class DocumentRoutes:
    """Serves the document, which is made for the first request.

    Args:
        describe: Returns what the document is made of; called once.
    """

    def __init__(self, describe: Callable[[], Described]) -> None:
        self._describe = describe
        self._lock = threading.Lock()
        # By media type and content coding.
        self._encoded: dict[tuple[str, str | None], PreparedResponse] = {}

    def routes(self) -> Sequence[Route]:
        """Return the route."""
        return collect_routes(self.show)

    @route("/api/schema/", policy="public", menu="OpenAPI document", responses={200: {JSON: Any, YAML: Any}})
    def show(self, request: Request, query: DocumentQuery) -> PreparedResponse:
        """Return this document: OpenAPI 3.1, as JSON or YAML."""
        kind = YAML if query.format == "yaml" or (not query.format and _prefers_yaml(request)) else JSON
        accepted = accepted_coding(request)
        with self._lock:
            if (kind, None) not in self._encoded:
                self._encode(kind)
        plain = self._encoded[kind, None]
        prepared = self._encoded[kind, accepted.choose(len(plain.content or b""))]
        headers = prepared.headers.copy()
        if is_unmodified(request, headers["etag"]):
            # It has no body that could have a type or be coded.
            headers.pop("content-encoding", None)
            del headers["content-type"]
            return PreparedResponse(falcon.HTTP_304, headers, None)
        return PreparedResponse(falcon.HTTP_200, headers, prepared.content)

    def _encode(self, kind: str) -> None:
        # Each takes a fraction of a second, in which other requests wait: hardly anybody asks for YAML.
        if kind == YAML:
            if (JSON, None) not in self._encoded:
                self._encode(JSON)
            content = encode_yaml(self._encoded[JSON, None].content or b"")
        else:
            content = encode_json(make_document(self._describe()))
        digest = hashlib.sha256(content).hexdigest()[:32]
        for coding in (None, *CODINGS):
            headers = {
                "content-type": kind,
                "etag": f'"{digest}"' if coding is None else f'"{digest}-{coding}"',
                "cache-control": "no-cache",
                "vary": "Accept, Accept-Encoding",
            }
            if coding is not None:
                headers["content-encoding"] = coding
            coded = content if coding is None else compress(content, coding)
            self._encoded[kind, coding] = PreparedResponse(falcon.HTTP_200, headers, coded)


def _prefers_yaml(request: Request) -> bool:
    return bool(request.client_prefers((JSON, YAML, "application/vnd.oai.openapi+yaml")) not in (JSON, None))


def encode_json(document: Object) -> bytes:
    """Encode a document as JSON."""
    return msgspec.json.encode(document)


def encode_yaml(document: bytes) -> bytes:
    """Encode a document, given as JSON, as YAML 1.1 that is valid YAML 1.2 as well, without anchors."""
    # Slow to import, and rarely asked for.
    import yaml

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # Of what was decoded, no part is the same object as another, which would become an anchor.
    plain = msgspec.json.decode(document)
    text: str = yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


# --- the document -----------------------------------------------------------------------------------------------------


def make_document(described: Described) -> Object:
    """Return the OpenAPI document of a service, as it is encoded.

    Args:
        described: What it is made of.
    """
    schemas = _Schemas()
    operations = _Operations(described, schemas)
    paths: dict[str, Object] = {}
    for mounted in described.routes:
        # Pages are for people.
        for method in () if mounted.is_page else methods_of(mounted.route):
            paths.setdefault(path_of(mounted), {})[method.lower()] = operations.make(mounted, method)
    schemas.resolve()
    components: Object = {
        "schemas": {**_error_schemas(unified=described.unified_errors), **schemas.components},
        "responses": operations.error_responses,
        "headers": _HEADERS,
    }
    if described.security_schemes:
        components["securitySchemes"] = dict(described.security_schemes)
    owners = {mounted.owner for mounted in described.routes}
    document = {
        "openapi": OPENAPI_VERSION,
        "info": {"title": "Tiercel", "version": described.version, "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": each.name, "description": describe(each.docstring)}
            for each in described.plugins
            if each.name in owners
        ],
        "paths": paths,
        "components": components,
    }
    add_links(document)
    return document


_INTRODUCTION = """\
Paths work with and without their trailing slash; what is read with GET answers HEAD as well. Every response has an \
`X-Request-ID`, which finds the request in the log. A wrong, unknown or empty parameter is a 400 that names it; items \
of a list are separated by commas. Errors have one body; a client that accepts `application/problem+json` gets the \
same facts as RFC 9457 names them."""


def path_of(mounted: MountedRoute) -> str:
    """Return the path of a route as it is declared, with or without its trailing slash."""
    ends_with_slash = mounted.route.path.endswith("/")
    return f"{mounted.template.rstrip('/')}/" if ends_with_slash else mounted.template


class _Operations:
    """Makes the Operation Object of each route.

    Args:
        described: What the document is made of.
        schemas: Collects the types of all routes.
    """

    def __init__(self, described: Described, schemas: _Schemas) -> None:
        self._applications = described.applications
        self._security_schemes = described.security_schemes
        self._page_size_max = described.page_size_max
        self._schemas = schemas
        self._ids: set[str] = set()
        self._wordings = _wordings_by_status()
        self.error_responses: dict[str, Object] = {}

    def make(self, mounted: MountedRoute, method: str) -> Object:
        """Return the operation of a route, for one of its methods."""
        handler, declared = mounted.route.handler, mounted.route
        if declared.method is None:
            handler = getattr(handler, f"on_{method.lower()}")
        hints = _type_hints(handler)
        if declared.method is None:
            # A Falcon resource reads and writes everything itself.
            hints = {}
        text = describe(declared.description or getattr(handler, "__doc__", None))
        summary, _, _ = re.sub(r"\s+", " ", text).partition(". ")
        query = declared.query or nested_struct(hints.get("query"))
        operation: Object = {
            "operationId": self._operation_id(mounted, handler),
            "tags": [mounted.owner],
            "summary": summary.removesuffix("."),
            "description": "\n\n".join(filter(None, [text, self._needed(mounted)])),
            "parameters": [
                *self._path_parameters(mounted, hints),
                *(() if query is None else self._query_parameters(query, declared.examples)),
                *self._header_parameters(declared, hints),
            ],
        }
        body = self._request_body(declared, hints)
        if body is not None:
            operation["requestBody"] = body
        operation["responses"] = {
            **self._successes(mounted, hints, operation["operationId"]),
            **self._errors(mounted, method, hints, has_body=body is not None, query=query),
        }
        operation["x-policy"] = declared.policy
        if self._security_schemes:
            scopes = [] if declared.policy in ("public", "authenticated") else [declared.policy]
            names = () if declared.policy == "public" else self._security_schemes
            operation["security"] = [{name: scopes} for name in names]
        return operation

    def _needed(self, mounted: MountedRoute) -> str:
        policy = mounted.route.policy
        if not self._security_schemes or policy == "public":
            return ""
        return "Needs authentication." if policy == "authenticated" else f"Needs the scope `{policy}`."

    def _operation_id(self, mounted: MountedRoute, handler: Any) -> str:
        """Return a name for a method of a client: the nouns of the path, and what the handler does with them."""
        segments = [_identifier(each) for each in mounted.template.split("/") if each and "{" not in each]
        nouns = [each for each in segments if each not in _COMMON_SEGMENTS]
        action = getattr(handler, "__qualname__", type(handler).__name__).rpartition(".")[2].removeprefix("on_")
        parameters = [each for each in PATH_PARAMETER.findall(mounted.template) if each != APPLICATION]
        for whole in (nouns, segments):
            parts = list(whole)
            words = {word for each in whole for word in each.split("_")}
            if action == "get" and mounted.template.endswith("}"):
                parts.append(f"by_{parameters[-1]}")
            elif action != "get" and words.isdisjoint(action.split("_")):
                parts.append(action)
            name = "_".join(parts) or action
            if mounted.is_filtered:
                name += "_for_application"
            if name not in self._ids:
                break
        number = 2
        while name in self._ids:
            name, number = f"{name.rstrip('0123456789')}{number}", number + 1
        self._ids.add(name)
        return name

    # --- requests -----------------------------------------------------------------------------------------------------

    def _path_parameters(self, mounted: MountedRoute, hints: Mapping[str, Any]) -> Iterator[Object]:
        for name in PATH_PARAMETER.findall(mounted.template):
            if name == APPLICATION and mounted.is_filtered:
                yield {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "description": "Slug of an application, whose view of the data it is.",
                    "schema": {"type": "string", **({"enum": list(self._applications)} if self._applications else {})},
                }
                continue
            kind = mounted.route.path_types.get(name, hints.get(name, str))
            found = {"name": name, "in": "path", "required": True, "schema": self._schemas.add(_in_path(kind))}
            values = [(each, each.path.get(name)) for each in mounted.route.examples]
            yield found | _examples(values)

    def _query_parameters(self, kind: type[msgspec.Struct], examples: Sequence[Example]) -> Iterator[Object]:
        meanings = describe_arguments(kind)
        for name, field in struct_fields(kind).items():
            parameter: Object = {"name": name, "in": "query"}
            if field.required:
                parameter["required"] = True
            if meaning := meanings.get(field.name):
                parameter["description"] = _in_json(meaning)
            if is_sequence(field.type):
                parameter |= {"style": "form", "explode": False}
            parameter["schema"] = self._schemas.add(
                without_none(field.type), _Parameter(name, field, self._page_size_max)
            )
            yield parameter | _examples([(each, each.query.get(name)) for each in examples])

    def _header_parameters(self, declared: Route, hints: Mapping[str, Any]) -> Iterator[Object]:
        given = dict(declared.request_headers)
        if hints.get("return") is PreparedResponse:
            given["If-None-Match"] = _IF_NONE_MATCH
        for name, kind in given.items():
            yield {"name": name, "in": "header", "schema": self._schemas.add(kind)}

    def _request_body(self, declared: Route, hints: Mapping[str, Any]) -> Object | None:
        kind = hints.get("body")
        if kind is None and not declared.accepts:
            return None
        is_raw = kind in (RawBody, StreamBody)
        accepted = dict(declared.accepts) or ({"*/*": bytes} if is_raw else {JSON: kind})
        content: Object = {}
        for media_type, each in accepted.items():
            values = [
                (example, example.body if example.media_type == media_type else None) for example in declared.examples
            ]
            schema = self._schemas.add_body(media_type, each, is_request=True)
            content[media_type] = {"schema": schema, **_examples(values)}
        return {
            "required": True,
            "description": f"May be compressed, with `Content-Encoding: {'` or `'.join(CODINGS)}`.",
            "content": content,
        }

    # --- responses ----------------------------------------------------------------------------------------------------

    def _successes(self, mounted: MountedRoute, hints: Mapping[str, Any], operation_id: str) -> dict[str, Object]:
        declared, returned = mounted.route, hints.get("return", Any)
        if typing.get_origin(returned) is Response:
            (returned,) = typing.get_args(returned)
        bodies = dict(declared.responses) or {204 if returned in (None, type(None)) else 200: returned}
        made = {}
        for status, body in sorted(bodies.items()):
            headers = ["X-Request-ID"]
            if mounted.throttle is not None:
                headers += _RATE_HEADERS
            if hints.get("return") is PreparedResponse:
                headers += ["ETag", "Cache-Control"]
            if status in (201, 202):
                headers.append("Location")
            response: Object = {"description": HTTPStatus(status).phrase, "headers": _references(headers)}
            content = self._content(declared, body, operation_id)
            if content:
                response["content"] = content
            made[str(status)] = response
        if hints.get("return") is PreparedResponse:
            headers = ["X-Request-ID", "ETag", "Cache-Control"]
            made["304"] = {"description": HTTPStatus.NOT_MODIFIED.phrase, "headers": _references(headers)}
        return made

    def _content(self, declared: Route, body: Any, operation_id: str) -> Object:
        if body in (None, type(None)):
            return {}
        if isinstance(body, Mapping):
            return {name: {"schema": self._schemas.add_body(name, each)} for name, each in body.items()}
        if StreamingResponse in (body, *typing.get_args(body)):
            return {"*/*": {"schema": {}}}
        schema = self._schemas.add(Any if body is PreparedResponse else body)
        if is_enveloped(declared) and typing.get_origin(body) is not Envelope:
            schema = self._schemas.envelop(schema, operation_id)
        return {JSON: {"schema": schema}}

    def _errors(
        self,
        mounted: MountedRoute,
        method: str,
        hints: Mapping[str, Any],
        *,
        has_body: bool,
        query: type[msgspec.Struct] | None,
    ) -> dict[str, Object]:
        declared = mounted.route
        is_known, changes = declared.policy != "public", method not in SAFE_METHODS
        names = set() if query is None else set(struct_fields(query))
        applicable = {
            400: True,
            401: is_known and bool(self._security_schemes),
            402: is_known and declared.policy != "authenticated" and bool(self._security_schemes),
            403: is_known or changes,
            404: "{" in mounted.template or bool(names & {"page", "as_of", APPLICATION}),
            408: has_body,
            409: changes and is_known,
            412: hints.get("return") is PreparedResponse,
            413: has_body,
            414: "{" in mounted.template or bool(names),
            415: changes,
            429: mounted.throttle is not None or is_known,
            503: True,
        }
        found = {*declared.errors, *(status for status, applies in applicable.items() if applies)}
        # A success may have such a status as well, as of a service that is not healthy.
        statuses = sorted(found - declared.responses.keys())
        return {str(status): self._error_response(status, declared.error_body) for status in statuses}

    def _error_response(self, status: int, own_body: ErrorBody | None) -> Object:
        """Return the response with the errors of a status: a reference, unless the route has a body of its own."""
        name = re.sub(r"\W", "", HTTPStatus(status).phrase.title())
        headers = ["X-Request-ID"]
        headers += {401: ["WWW-Authenticate"], 429: [*_RATE_HEADERS, "Retry-After"], 503: ["Retry-After"]}.get(
            status, []
        )
        content: Object = {JSON: {"schema": _ERROR}, "application/problem+json": {"schema": _PROBLEM}}
        if own_body is not None:
            content = {kind: {"schema": self._schemas.add_body(kind, each)} for kind, each in own_body.types.items()}
        response = {
            "description": self._wordings.get(status, HTTPStatus(status).phrase),
            "headers": _references(headers),
            "content": content,
        }
        if own_body is not None:
            return response
        self.error_responses.setdefault(name, response)
        return {"$ref": f"#/components/responses/{name}"}


def _type_hints(handler: Any) -> dict[str, Any]:
    if not callable(handler):
        return {}
    try:
        return typing.get_type_hints(handler, include_extras=True)
    except TypeError:
        # A callable object.
        return typing.get_type_hints(type(handler).__call__, include_extras=True)


def _identifier(text: str) -> str:
    return re.sub(r"\W", "_", text)


def _in_json(text: str) -> str:
    """Return a description with the names that values have in JSON."""
    return re.sub(r"\bNone\b", "null", text)


def _references(headers: Sequence[str]) -> Object:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _examples(values: Sequence[tuple[Example, Any]]) -> Object:
    """Return the member ``examples``, if there are any: those of one request have one name, wherever they stand."""
    found: Object = {}
    for number, (example, value) in enumerate(values, start=1):
        if value is not None:
            summary = {"summary": example.summary} if example.summary else {}
            found[f"example{number}"] = {**summary, "value": value}
    return {"examples": found} if found else {}


# --- links ------------------------------------------------------------------------------------------------------------


def add_links(document: Object) -> None:
    """Link what creates or lists objects to the operations on one of them, which are below the path of the collection.

    Source: https://spec.openapis.org/oas/v3.1.1.html#link-object
    """
    paths, schemas = document["paths"], document["components"]["schemas"]
    for path, item in paths.items():
        below = re.compile(re.escape(path) + r"\{(\w+)\}/(?:[a-z_-]+/)?")
        for other, operations in paths.items():
            found = below.fullmatch(other)
            if found is None or found[1] == APPLICATION:
                continue
            for method, source in item.items():
                # What changes an object gets one that was made for that.
                linked = [each for name, each in operations.items() if method == "post" or name == "get"]
                if method in ("get", "post"):
                    _link(source, linked, found[1], schemas, is_list=method == "get")


def _link(source: Object, operations: Sequence[Object], parameter: str, schemas: Object, *, is_list: bool) -> None:
    for status, response in source["responses"].items():
        schema = response.get("content", {}).get(JSON, {}).get("schema")
        if not status.startswith("2") or schema is None:
            continue
        pointer = _find_member(schema, parameter, schemas, is_list=is_list)
        if pointer is not None:
            links = response.setdefault("links", {})
            for each in operations:
                name = each["operationId"]
                links[name] = {"operationId": name, "parameters": {parameter: f"$response.body#{pointer}"}}


def _find_member(schema: Object, name: str, schemas: Object, *, is_list: bool) -> str | None:
    """Return the pointer to a member of what a body holds; of the first item, if it is a list."""
    schema = resolve_reference(schema, schemas)
    if is_list and schema.get("type") == "array":
        inner = _find_member(schema["items"], name, schemas, is_list=False)
        return None if inner is None else f"/0{inner}"
    members = schema.get("properties", {})
    if name in members and not is_list:
        return f"/{name}"
    for member in ("data", "results", "key"):
        if member in members:
            inner = _find_member(members[member], name, schemas, is_list=is_list)
            return None if inner is None else f"/{member}{inner}"
    return None


def resolve_reference(schema: Object, schemas: Object) -> Object:
    """Return the component that a schema refers to, or else the schema itself."""
    while "$ref" in schema:
        schema = schemas[schema["$ref"].removeprefix(_SCHEMAS)]
    return schema


# --- schemas ----------------------------------------------------------------------------------------------------------

Finish = Callable[[Object], Object]


class _Parameter:
    """Completes the schema of a query parameter: its default, and text that it takes besides.

    Args:
        name: Its name.
        field: The field of the query.
        page_size_max: The largest page that a client may ask for.
    """

    def __init__(self, name: str, field: FieldInfo, page_size_max: int) -> None:
        self._name = name
        self._field = field
        self._page_size_max = page_size_max

    def __call__(self, schema: Object) -> Object:
        field = self._field
        if base_type(field.type) is datetime:
            schema = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]}
        elif self._name == "page_size":
            schema = {**schema, "maximum": self._page_size_max}
        if schema.get("type") == "array":
            schema.setdefault("minItems", 1)
        if self._name not in MAY_BE_EMPTY:
            _refuse_empty(schema)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if default not in (None, msgspec.NODEFAULT, msgspec.UNSET, "", ()) and not field.required:
            schema = {**schema, "default": msgspec.to_builtins(default, enc_hook=str)}
        return schema


def _refuse_empty(schema: Object) -> None:
    """Say of a parameter that its text, or that of each item, is not empty."""
    for each in (schema, schema.get("items", {}), *schema.get("anyOf", ())):
        if each.get("type") == "string" and "enum" not in each and "format" not in each:
            each["minLength"] = max(each.get("minLength", 1), 1)


class _Schemas:
    """Collects types, and makes their schemas all at once, so that each Struct becomes one component."""

    def __init__(self) -> None:
        self._wanted: list[tuple[Any, Object, Finish | None, bool]] = []
        self._envelopes: list[tuple[Object, Object, str]] = []
        self.components: dict[str, Object] = {}

    def add(self, annotation: Any, finish: Finish | None = None, *, is_request: bool = False) -> Object:
        """Return the schema of a type, which is empty until ``resolve``.

        Args:
            annotation: The type.
            finish: Changes the schema.
            is_request: Whether clients send it.
        """
        schema: Object = {}
        members = _union_of_structs(annotation)
        if members:
            schema["anyOf"] = [self.add(each, is_request=is_request) for each in members]
        else:
            self._wanted.append((annotation, schema, finish, is_request))
        return schema

    def add_body(self, media_type: str, annotation: Any, *, is_request: bool = False) -> Object:
        """Return the schema of a body of some media type; of each line, if it has lines."""
        if media_type == JSON or annotation is Any:
            return self.add(annotation, is_request=is_request)
        if annotation is bytes:
            return {"type": "string", "format": "binary"}
        if media_type in _LINES and annotation is not str:
            lines = self.add(annotation, is_request=is_request)
            return {"type": "string", "contentMediaType": media_type, "contentSchema": lines}
        return {"type": "string"}

    def envelop(self, schema: Object, operation_id: str) -> Object:
        """Return a reference to the envelope of ``/api/v1/`` around a schema."""
        reference: Object = {}
        self._envelopes.append((reference, schema, operation_id))
        return reference

    def resolve(self) -> None:
        """Fill in all schemas, and ``components``."""
        annotations = [_without_raw_defaults(annotation) for annotation, _, _, _ in self._wanted]
        structs = _Structs()
        annotations = [each if structs.can_show(each) else Any for each in annotations]
        made, components = _schema_components(annotations)
        for (_, schema, finish, _), done in zip(self._wanted, made, strict=True):
            schema.update(done if finish is None else finish(done))
        sent = _reachable([schema for _, schema, _, is_request in self._wanted if is_request], components)
        names = {name: _pretty_name(each.get("title", name)) for name, each in components.items()}
        if len(set(names.values())) < len(names):
            names = {name: name for name in names}
        for name, component in components.items():
            _complete(component, structs.by_title.get(component.get("title", "")), is_sent=name in sent)
            self.components[names[name]] = component
        for part in (self.components, *(schema for _, schema, _, _ in self._wanted)):
            _rename(part, names)
            _standardize(part)
        self._resolve_envelopes()

    def _resolve_envelopes(self) -> None:
        for reference, schema, operation_id in self._envelopes:
            inner = schema.get("$ref", "").removeprefix(_SCHEMAS)
            name = f"{inner or ''.join(each.title() for each in operation_id.split('_'))}Envelope"
            self.components[name] = {
                "title": name,
                "description": describe(Envelope.__doc__),
                "type": "object",
                "properties": {
                    "success": {"const": True, "type": "boolean"},
                    "data": schema,
                    "request_id": {"type": "string", "description": "As in `X-Request-ID`."},
                },
                "required": ["success", "data", "request_id"],
            }
            reference["$ref"] = _SCHEMAS + name


def _schema_components(annotations: Sequence[Any]) -> tuple[tuple[Object, ...], dict[str, Object]]:
    return msgspec.json.schema_components(
        annotations, schema_hook=lambda _kind: {"type": "string"}, ref_template=f"{_SCHEMAS}{{name}}"
    )


def _has_schema(annotation: Any) -> bool:
    """Tell whether a type has a schema: one that has not is described as any value, and breaks nothing else."""
    try:
        _schema_components([annotation])
    except (TypeError, ValueError):
        return False
    return True


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else ()


def _union_of_structs(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union with several Structs, which msgspec could not decode; else nothing."""
    members = _members(annotation)
    return members if sum(nested_struct(each) is not None for each in members) > 1 else ()


def _in_path(annotation: Any) -> Any:
    """Return the type of a path parameter; an empty text would be another path."""
    return Annotated[str, msgspec.Meta(min_length=1)] if annotation is str else annotation


def _without_raw_defaults(annotation: Any) -> Any:
    """Return a type with ``msgspec.UNSET`` where a Struct has a default of type ``Raw``, which msgspec cannot show."""
    arguments = typing.get_args(annotation)
    if arguments and typing.get_origin(annotation) not in (Literal, Annotated):
        changed = tuple(_without_raw_defaults(each) for each in arguments)
        if changed != arguments:
            origin: Any = typing.Union if _members(annotation) else typing.get_origin(annotation)
            return origin[changed if len(changed) > 1 else changed[0]]
        return annotation
    return _without_raw_default(annotation) if nested_struct(annotation) is annotation else annotation


@cache
def _without_raw_default(annotation: type[msgspec.Struct]) -> type[msgspec.Struct]:
    fields = msgspec.structs.fields(annotation)
    if not any(isinstance(field.default, msgspec.Raw) for field in fields):
        return annotation
    shown = [
        (field.name, field.type)
        if field.required
        else (field.name, field.type, msgspec.UNSET if isinstance(field.default, msgspec.Raw) else field.default)
        for field in fields
    ]
    namespace = {"__doc__": annotation.__doc__}
    return msgspec.defstruct(
        annotation.__name__, shown, namespace=namespace, module=annotation.__module__, kw_only=True
    )


class _Structs:
    """Every Struct in the types of a document."""

    def __init__(self) -> None:
        self.by_title: dict[str, Any] = {}
        self._by_name: dict[tuple[str, str], Any] = {}
        self._shown: dict[Any, bool] = {}

    def can_show(self, annotation: Any) -> bool:
        """Add the Structs in a type; False if it has no schema, or none of its own."""
        try:
            # Most types are those of many routes, and looking into one takes long.
            if annotation in self._shown:
                return self._shown[annotation]
        except TypeError:
            return _has_schema(annotation) and self.add(annotation)
        self._shown[annotation] = _has_schema(annotation) and self.add(annotation)
        return self._shown[annotation]

    def add(self, annotation: Any) -> bool:
        """Add those in a type; False if one has the full name of another Struct, which msgspec could not tell apart."""
        found: list[Any] = []
        _collect_structs(msgspec.inspect.type_info(annotation), found)
        names = {(kind.__module__, _title_of(kind)): kind for kind in found}
        if any(self._by_name.get(name, kind) != kind for name, kind in names.items()):
            return False
        self._by_name |= names
        self.by_title |= {_title_of(kind): kind for kind in found if _title_of(kind) not in self.by_title}
        return True


def _collect_structs(kind: msgspec.inspect.Type, found: list[Any]) -> None:
    inner: list[Any] = []
    if isinstance(kind, msgspec.inspect.StructType):
        if kind.cls in found:
            return
        found.append(kind.cls)
        inner = [field.type for field in kind.fields]
    for name in ("type", "item_type", "key_type", "value_type"):
        inner.append(getattr(kind, name, None))
    for each in (*inner, *getattr(kind, "types", ()), *getattr(kind, "item_types", ())):
        if each is not None:
            _collect_structs(each, found)


def _title_of(kind: Any) -> str:
    """Return the title that msgspec gives to the schema of a Struct."""
    origin = typing.get_origin(kind)
    if origin is None:
        return str(kind.__name__)
    arguments = (each.__name__ if isinstance(each, type) else repr(each) for each in typing.get_args(kind))
    return f"{origin.__name__}[{', '.join(arguments)}]"


def _complete(component: Object, kind: Any, *, is_sent: bool) -> None:
    """Complete the schema of a Struct: what it and its fields mean, and which of them a response always has."""
    if kind is None:
        return
    struct = typing.get_origin(kind) or kind
    component["title"] = _pretty_name(component["title"])
    component["description"] = describe(struct.__doc__)
    meanings = describe_arguments(struct)
    fields = struct_fields(struct)
    always = []
    for name, schema in component.get("properties", {}).items():
        field = fields.get(name)
        if field is None:
            continue
        if (meaning := meanings.get(field.name)) and "description" not in schema:
            schema["description"] = _in_json(meaning)
        if base_type(field.type) is datetime:
            _add_time_format(schema)
        if field.required or (not struct.__struct_config__.omit_defaults and not _may_be_unset(field.type)):
            always.append(name)
        if not is_sent:
            schema.pop("default", None)
    if not is_sent and "properties" in component:
        component["required"] = [name for name in component["properties"] if name in always or name not in fields]


def _add_time_format(schema: Object) -> None:
    """Say of texts that they are times; msgspec does only of those that must have an offset, which ours always have."""
    for each in (schema, *schema.get("anyOf", ())):
        if each.get("type") == "string":
            each.setdefault("format", "date-time")


def _may_be_unset(annotation: Any) -> bool:
    return msgspec.UnsetType in typing.get_args(annotation)


def _reachable(schemas: Sequence[Object], components: Mapping[str, Object]) -> set[str]:
    """Return the names of the components that some schemas refer to, however indirectly."""
    found: set[str] = set()
    pending: list[Any] = list(schemas)
    while pending:
        for name in _names_in(pending.pop()):
            if name not in found:
                found.add(name)
                pending.append(components[name])
    return found


def _names_in(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference.removeprefix(_SCHEMAS)
        for each in part.values():
            yield from _names_in(each)
    elif isinstance(part, list | tuple):
        for each in part:
            yield from _names_in(each)


def _rename(part: Any, names: Mapping[str, str]) -> None:
    """Change references to components that get other names."""
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            old = reference.removeprefix(_SCHEMAS)
            part["$ref"] = _SCHEMAS + names.get(old, old)
        for each in part.values():
            _rename(each, names)
    elif isinstance(part, list | tuple):
        for each in part:
            _rename(each, names)


def _standardize(part: Any) -> None:
    """Change what msgspec writes for Python into what other programs read: patterns, and types of enumerations."""
    if isinstance(part, dict):
        if isinstance(pattern := part.get("pattern"), str):
            # The syntax is that of ECMA-262.
            part["pattern"] = pattern.replace("\\Z", "$")
        if isinstance(choices := part.get("enum"), list) and all(isinstance(each, str) for each in choices):
            part.setdefault("type", "string")
        for each in part.values():
            _standardize(each)
    elif isinstance(part, list | tuple):
        for each in part:
            _standardize(each)


def _pretty_name(title: str) -> str:
    """Return the name of a component: ``Page[Event]`` is an ``EventPage``."""
    found = re.fullmatch(r"(\w+)\[(\w+)\]", title)
    if found is not None:
        return f"{found[2]}{found[1]}"
    return re.sub(r"\W+", "_", title).strip("_")


# --- errors and headers -----------------------------------------------------------------------------------------------


def _wordings_by_status() -> dict[int, str]:
    """Return what each status means, from the classes of errors."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApiError)]
    found: dict[int, list[str]] = {}
    for kind in kinds:
        if "code" in vars(kind):
            found.setdefault(kind.status, []).append(f"`{kind.code}`: {kind.default_message}")
    return {status: "\n\n".join(wordings) for status, wordings in found.items()}


_MESSAGES = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}
_FIELD_ERRORS = {
    "description": "Messages by field; of a batch, by position.",
    "anyOf": [
        _MESSAGES,
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"index": {"type": "integer"}, "errors": _MESSAGES},
                "required": ["index", "errors"],
            },
        },
    ],
}
_CODE = {"type": "string", "description": "For programs, such as `not_found`."}
_REQUEST_ID = {"type": "string", "description": "As in `X-Request-ID`."}


def _error_schemas(*, unified: bool) -> dict[str, Object]:
    problem = {
        "description": "An error as RFC 9457 has it.",
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": _CODE,
            "errors": _FIELD_ERRORS,
            "request_id": _REQUEST_ID,
        },
        "required": ["type", "title", "status", "detail", "code", "request_id"],
    }
    plain = {
        "description": "The body of every error.",
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "description": {"type": "string"},
            "errors": _FIELD_ERRORS,
        },
        "required": ["title", "description"],
    }
    own = {
        "description": "The body of every error.",
        "type": "object",
        "properties": {
            "success": {"type": "boolean", "const": False},
            "error": {"type": "string", "description": "For people."},
            "detail": {"type": ["string", "null"], "description": "Technical."},
            "code": _CODE,
            "errors": _FIELD_ERRORS,
            "request_id": _REQUEST_ID,
        },
        "required": ["success", "error", "detail", "code", "request_id"],
    }
    return {"Error": own if unified else plain, "Problem": problem}


def _header(description: str, kind: str = "string") -> Object:
    return {"description": description, "schema": {"type": kind}}


_HEADERS: dict[str, Object] = {
    "X-Request-ID": _header("Identifies the request: that of the client if it sent one."),
    "RateLimit-Policy": _header(
        "How many requests are allowed in how many seconds: draft-ietf-httpapi-ratelimit-headers."
    ),
    "RateLimit": _header("How many of them are left, and in how many seconds all of them are there again."),
    "X-RateLimit-Limit": _header("How many requests are allowed.", "integer"),
    "X-RateLimit-Remaining": _header("How many of them are left.", "integer"),
    "X-RateLimit-Reset": _header("In how many seconds all of them are there again.", "integer"),
    "Retry-After": _header("After how many seconds to try again.", "integer"),
    "WWW-Authenticate": _header("The schemes that a request may use."),
    "Location": _header("Path of what was created."),
    "ETag": _header("Validator of the body, for `If-None-Match`."),
    "Cache-Control": _header("Who may keep the response, and for how long."),
}
