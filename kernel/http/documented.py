"""The requests that an OpenAPI document shows, in an order in which they can be sent to a running service.

``tiercel smoke`` sends them, and the Postman collection is made of them. What creates an object comes before what shows
and changes it, and what deletes it comes last. Nothing is sent that would change an object which no request of the list
has created: what is not safe (RFC 9110, 9.2.1) is in the list if it has an example, or deletes what was created.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from kernel.http.openapi import JSON, resolve_reference

Object = dict[str, Any]
EVENT_STREAM = "text/event-stream"
_SAFE = frozenset({"get"})
_STEPS = ("health", "ingest", "create and change", "read", "views", "clean up")


class Capture(msgspec.Struct, frozen=True):
    """A value in a response that later requests need.

    Args:
        variable: Its name.
        pointer: JSON Pointer (RFC 6901) to it.
    """

    variable: str
    pointer: str

    def read(self, body: Any) -> Any:
        """Return the value in a body; None if it is not there."""
        for part in self.pointer.split("/")[1:]:
            if isinstance(body, list):
                body = body[int(part)] if int(part) < len(body) else None
            elif isinstance(body, dict):
                body = body.get(part)
            else:
                return None
        return body


class DocumentedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a document.

    Args:
        operation_id: Its operation.
        step: Of which part of the order it is.
        tag: Of the operation.
        method: In upper case.
        path: As in the document, with parameters in braces.
        path_values: Values of path parameters that the document gives.
        variables: Variables with the values of the others, by parameter.
        query: Values of query parameters, as text.
        media_type: Of the body; None without one.
        body: An example of the document: text, or what is encoded as JSON.
        times: Members of the body, or of its items, that are times: the request is of now.
        responses: Schema by media type, by status of success; None for no body.
        captures: What later requests need of the response.
    """

    operation_id: str
    step: str
    tag: str
    method: str
    path: str
    path_values: Mapping[str, Any]
    variables: Mapping[str, str]
    query: Mapping[str, str]
    media_type: str | None
    body: Any
    times: Sequence[str]
    responses: Mapping[int, Mapping[str, Object]]
    captures: Sequence[Capture]

    @property
    def is_event_stream(self) -> bool:
        """Whether the response is server-sent events, which may have no end."""
        return any(EVENT_STREAM in types for types in self.responses.values())

    def target(self, values: Mapping[str, Any]) -> str:
        """Return path and query string.

        Args:
            values: Of variables, by name.

        Raises:
            KeyError: A variable has no value.
        """
        path = self.path
        for name, value in self.path_values.items():
            path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
        for name, variable in self.variables.items():
            path = path.replace(f"{{{name}}}", quote(str(values[variable]), safe=""))
        return f"{path}?{urlencode(self.query)}" if self.query else path

    def content(self, now: str) -> bytes | None:
        """Return the body, with the present time where it has times.

        Args:
            now: ISO 8601.
        """
        if self.media_type is None:
            return None
        body = set_times(self.body, self.times, now)
        return body.encode() if isinstance(body, str) else msgspec.json.encode(body)


def set_times(body: Any, names: Sequence[str], time: str) -> Any:
    """Return a body, or the lines of one, whose members of some names are a time."""
    if isinstance(body, list):
        return [set_times(each, names, time) for each in body]
    if isinstance(body, dict):
        return {name: time if name in names else value for name, value in body.items()}
    if isinstance(body, str) and names:
        lines = [msgspec.json.decode(line) for line in body.splitlines()]
        return "".join(msgspec.json.encode(set_times(line, names, time)).decode() + "\n" for line in lines)
    return body


def documented_requests(document: Object) -> list[DocumentedRequest]:
    """Return the requests of a document, in order."""
    made, links = [], _links(document)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            made += list(_requests_of(document, path, method, operation, links))
    available = {each.variable for request in made for each in request.captures}
    kept = [each for each in made if available.issuperset(each.variables.values())]
    # What was created later may belong to what was created before.
    last = [each for each in reversed(kept) if each.step == _STEPS[-1]]
    return [*(each for step in _STEPS[:-1] for each in kept if each.step == step), *last]


def _requests_of(
    document: Object, path: str, method: str, operation: Object, links: Mapping[str, Mapping[str, str]]
) -> Iterator[DocumentedRequest]:
    parameters = operation["parameters"]
    media_types = operation.get("requestBody", {}).get("content", {})
    shown = [*parameters, *media_types.values()]
    names = sorted({name for each in shown for name in each.get("examples", {})})
    needed = [each["name"] for each in parameters if each.get("required")]
    given = {each["name"]: _given_value(each, "") for each in parameters if each["in"] == "path"}
    variables = {
        name: links[operation["operationId"]][name]
        for name, value in given.items()
        if value is None and name in links.get(operation["operationId"], {})
    }
    is_deletable = method == "delete" and bool(variables)
    if not names and (media_types or (method not in _SAFE and not is_deletable)):
        return
    for name in names or [""]:
        path_values = {
            each["name"]: value
            for each in parameters
            if each["in"] == "path" and (value := _given_value(each, name)) is not None
        }
        query = {
            each["name"]: _as_text(each["examples"][name]["value"])
            for each in parameters
            if each["in"] == "query" and name in each.get("examples", {})
        }
        own = {key: value for key, value in variables.items() if key not in path_values}
        if not set(needed) <= {*path_values, *own, *query}:
            continue
        media_type = next((kind for kind, each in media_types.items() if name in each.get("examples", {})), None)
        content = {} if media_type is None else media_types[media_type]
        yield DocumentedRequest(
            operation_id=operation["operationId"],
            step=_step_of(method, operation),
            tag=operation["tags"][0],
            method=method.upper(),
            path=path,
            path_values=path_values,
            variables=own,
            query=query,
            media_type=media_type,
            body=content["examples"][name]["value"] if content else None,
            times=_time_members(content.get("schema", {}), document["components"]["schemas"]),
            responses={
                int(status): {kind: each["schema"] for kind, each in response.get("content", {}).items()}
                for status, response in operation["responses"].items()
                if status.startswith("2")
            },
            captures=_captures_of(operation) if name in ("", *names[:1]) else (),
        )


def _step_of(method: str, operation: Object) -> str:
    policy = operation["x-policy"]
    if method == "delete":
        return "clean up"
    if policy == "ingest":
        return "ingest"
    if method not in _SAFE:
        return "create and change"
    if policy != "public":
        return "read"
    return "views" if "ETag" in operation["responses"]["200"].get("headers", {}) else "health"


def _given_value(parameter: Object, example: str) -> Any:
    examples = parameter.get("examples", {})
    if example in examples:
        return examples[example]["value"]
    return next(iter(parameter["schema"].get("enum", ())), None)


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_as_text, value)) if isinstance(value, list | tuple) else str(value)


def _variable(source: str, pointer: str) -> str:
    return f"{source}{pointer.replace('/', '_')}"


def _links(document: Object) -> dict[str, dict[str, str]]:
    """Return by operation and parameter the variable with its value: what created an object, or else what lists it."""
    found: dict[str, dict[str, str]] = {}
    for method in ("get", "post"):
        for item in document["paths"].values():
            for capture, operation_id, parameter in _linked(item.get(method)):
                # A request without an example creates nothing.
                if method == "get" or _has_example(item[method]):
                    found.setdefault(operation_id, {})[parameter] = capture.variable
    return found


def _has_example(operation: Object) -> bool:
    return any(each.get("examples") for each in operation.get("requestBody", {}).get("content", {}).values())


def _linked(operation: Object | None) -> Iterator[tuple[Capture, str, str]]:
    for response in () if operation is None else operation["responses"].values():
        for link in response.get("links", {}).values():
            for parameter, expression in link["parameters"].items():
                pointer = expression.removeprefix("$response.body#")
                capture = Capture(_variable(str(operation and operation["operationId"]), pointer), pointer)
                yield capture, link["operationId"], parameter


def _captures_of(operation: Object) -> Sequence[Capture]:
    return list({capture.variable: capture for capture, _, _ in _linked(operation)}.values())


def _time_members(schema: Object, schemas: Object) -> Sequence[str]:
    schema = resolve_reference(schema, schemas)
    for inner in ("items", "contentSchema"):
        if inner in schema:
            return _time_members(schema[inner], schemas)
    members = schema.get("properties", {}).items()
    return [name for name, each in members if each.get("format") == "date-time"]


__all__ = ["JSON", "Capture", "DocumentedRequest", "documented_requests", "set_times"]
