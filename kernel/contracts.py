"""The frozen Structs that plugins return from their hooks, and the ``route`` decorator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from kernel.errors import ApiError
from kernel.identity import Identity

if TYPE_CHECKING:
    import click

# Who may use a route: everybody; whoever is authenticated, whatever its account and scopes; senders of events, readers,
# writers, or staff.
Policy = Literal["public", "authenticated", "ingest", "read", "write", "staff"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler = Callable[..., Any]
# Raises if something is not healthy; returns a detail for people, or None.
Probe = Callable[[], str | None]
H = TypeVar("H", bound=Handler)
_ROUTE = "__tiercel_route__"
BODY_MAX_BYTES = 1024 * 1024


class Filter(Protocol):
    """A filter of an application: a pure function, called by name."""

    def __call__(self, items: list[Any]) -> Sequence[Any]:
        """Return the items that the application sees.

        Args:
            items: All items of a dataset.
        """


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the Structs that hooks return: frozen, with keyword arguments only."""


class Application(Contract, frozen=True):
    """An application: a filtered view of the shared data.

    Args:
        slug: Its segment in URLs, such as ``acme``.
        name: Name for people.
        features: Slugs of the features it has.
        filters: By name of a dataset, or another of its filter keys, a pure function ``filter(items)`` that returns
            those that the application sees. Without one, it sees all items.
        services: Services whose request logs belong to the application.
    """

    slug: str
    name: str
    features: tuple[str, ...] = ()
    filters: Mapping[str, Filter] = {}
    services: tuple[str, ...] = ()


class Dataset(Contract, frozen=True):
    """A kind of data that a plugin publishes as a whole, in versions.

    Args:
        name: Unique over all plugins.
        item: The Struct of an item.
        key: The field that identifies an item.
        order: Fields to sort items by; a leading ``-`` sorts descending. Ties are broken by the key.
        filter_keys: Further keys by which an application's filters may refer to the dataset, such as ``product``. Its
            name and ``<name>_filter`` always work.
        file: File name for ``tiercel data export``; ``<name>.json`` by default. A field in braces, as in
            ``{shop}-products.json``, writes one file for each value of the field.
        relations: Fields that hold keys of items in other datasets, with the names of those datasets: ``{"tags":
            "tags"}``. Such a field is a str, a str or None, or a tuple of str. ``?include=tags`` embeds the items.
        per_account: Each account has versions of its own, and sees no others; its routes must not be public. By default
            all accounts share the dataset.
    """

    name: str
    item: type[msgspec.Struct]
    key: str
    order: tuple[str, ...] = ()
    filter_keys: tuple[str, ...] = ()
    file: str | None = None
    relations: Mapping[str, str] = {}
    per_account: bool = False

    def __hash__(self) -> int:
        # The name is unique; relations are not hashable.
        return hash(self.name)


class Example(Contract, frozen=True):
    """A request for a route, shown in the OpenAPI document; tests and ``tiercel smoke`` send it.

    A parameter of the path that it does not give is taken from the answer to an earlier example: that of the list, or
    that which created the object.

    Args:
        summary: What it shows.
        path: Values of path parameters by name.
        query: Values of query parameters by name.
        body: The body: text as it is, anything else as JSON.
        media_type: Of the body.
    """

    summary: str = ""
    path: Mapping[str, Any] = {}
    query: Mapping[str, Any] = {}
    body: Any = None
    media_type: str = "application/json"


class ErrorBody(Contract, frozen=True):
    """The body that the protocol of a route demands of its errors, in place of the kernel's.

    Args:
        encode: Takes an error, and the media type of the body that the client sent; returns media type and content.
        types: The type of the body by media type, for the OpenAPI document.
    """

    encode: Callable[[ApiError, str], tuple[str, bytes]]
    types: Mapping[str, Any]


class Route(Contract, frozen=True):
    """An HTTP route: a path, a policy and the handler that serves it. ``@route`` declares it at the handler.

    The kernel calls a handler with what its parameters ask for, by name and type:

    - ``request: Request``, the request itself.
    - ``identity: Identity``, who sends it and for which account; not on public routes.
    - ``query``, a Struct: the query string. Unknown, repeated, empty and wrong parameters are answered with one 400
      that names all of them; only ``search``, ``ordering`` and ``cursor`` may be empty.
    - ``body``, any type: the body, decoded from JSON, likewise. ``RawBody`` and ``StreamBody`` take other media types,
      except those of forms.
    - ``form: Submitted[...]`` of a Struct, in place of ``body``: a form that a page of the service sent by POST.
    - a parameter for each ``{name}`` of the path. A text that its type does not fit is answered with 404.
    - ``application: Application | None``, on a route ``per_application``; None is the unfiltered view.

    A handler returns what is encoded as JSON, such as a Struct or a ``Page``; a ``Response`` to set status or headers;
    or a ``StreamingResponse``. Under ``/api/v1/``, the JSON is ``{"success": true, "data": ..., "request_id": ...}``
    with what was returned as ``data``. It raises an ``ApiError`` to answer with an error.

    Args:
        path: Such as ``/api/products/{id}/``. It works with and without the trailing slash.
        handler: A function or bound method; or, with method None, a Falcon resource for full control.
        policy: Who may use it: everybody, whoever is authenticated, senders of events, readers, writers or staff.
        method: GET answers HEAD as well.
        aliases: Further paths of the same route, with the same body.
        menu: Label under which it is listed; None leaves it out.
        in_menu: Whether it is listed for somebody, who may use it by its policy; for all of them by default.
        logged: False leaves it out of the access log and its subscribers; meant for probes.
        per_application: Serve it for each application as well, whose slug follows ``/public/``:
            ``/shop/public/products/`` and ``/shop/public/{application}/products/``.
        query: The Struct of the query string, for a handler that serves several routes and annotates ``query`` with a
            base class of theirs. By default that annotation.
        body_max_bytes: The largest body, as sent and decompressed, for a handler that takes it whole. The settings
            ``http.max_body_bytes`` and ``http.max_decoded_bytes`` apply as well, and alone to a ``StreamBody``.
        throttle: The scope in which its requests are counted; see ``[throttle]`` in the settings. By default
            ``ingest``, ``read`` or ``write``, by policy and method, and none for a route that is public or not logged.
        path_types: The types of path parameters by name, for a handler that serves several routes and takes those that
            it does not name as ``**path_parameters``. By default the annotations of its parameters.
        description: What it does, for the OpenAPI document; by default the docstring of the handler.
        responses: The type of the body by status of success, for the OpenAPI document, where the annotation of the
            handler does not say it: ``{201: Order}``, None for no body. A mapping for other media types than JSON:
            ``{200: {"text/csv": str, "application/x-ndjson": Order}}``, by line where there are lines.
        errors: Statuses of errors that it answers with, for the OpenAPI document, besides those which follow from its
            policy, path, parameters and body.
        accepts: The type of the body by media type, for the OpenAPI document of a handler that takes a ``RawBody`` or a
            ``StreamBody``.
        request_headers: Types of headers that the handler reads, by name, for the OpenAPI document:
            ``Annotated[str, msgspec.Meta(description=...)]``.
        examples: Requests for the OpenAPI document.
        error_body: The body of errors, where the protocol of the route demands another one than the kernel's.
    """

    path: str
    handler: Handler | object
    policy: Policy
    method: Method | None = "GET"
    aliases: tuple[str, ...] = ()
    menu: str | None = None
    in_menu: Callable[[Identity], bool] | None = None
    logged: bool = True
    per_application: bool = False
    body_max_bytes: int = BODY_MAX_BYTES
    query: type[msgspec.Struct] | None = None
    path_types: Mapping[str, Any] = {}
    throttle: str | None = None
    description: str = ""
    responses: Mapping[int, Any] = {}
    errors: tuple[int, ...] = ()
    accepts: Mapping[str, Any] = {}
    request_headers: Mapping[str, Any] = {}
    examples: tuple[Example, ...] = ()
    error_body: ErrorBody | None = None


def route(
    path: str,
    *,
    policy: Policy,
    method: Method = "GET",
    aliases: tuple[str, ...] = (),
    menu: str | None = None,
    in_menu: Callable[[Identity], bool] | None = None,
    logged: bool = True,
    per_application: bool = False,
    body_max_bytes: int = BODY_MAX_BYTES,
    throttle: str | None = None,
    responses: Mapping[int, Any] | None = None,
    errors: tuple[int, ...] = (),
    accepts: Mapping[str, Any] | None = None,
    request_headers: Mapping[str, Any] | None = None,
    examples: tuple[Example, ...] = (),
    error_body: ErrorBody | None = None,
) -> Callable[[H], H]:
    """Declare where a function or method is served. Arguments, and what it may take and return, as of ``Route``.

    Example::

        class OrderRoutes:
            @route("/api/v1/orders/{id}/", policy="read")
            def show(self, id: int) -> Order:
                return self._store.find(id)

            @route("/api/v1/orders/", policy="write", method="POST")
            def create(self, body: NewOrder) -> Response[Order]:
                return Response(self._store.insert(body), 201)


        @hookimpl
        def register_routes(services: Services) -> Iterable[Route]:
            orders = OrderRoutes(OrderStore(services.db))
            return collect_routes(orders.show, orders.create)
    """
    declared = {
        "path": path,
        "policy": policy,
        "method": method,
        "aliases": aliases,
        "menu": menu,
        "in_menu": in_menu,
        "logged": logged,
        "per_application": per_application,
        "body_max_bytes": body_max_bytes,
        "throttle": throttle,
        "responses": responses or {},
        "errors": errors,
        "accepts": accepts or {},
        "request_headers": request_headers or {},
        "examples": examples,
        "error_body": error_body,
    }

    def decorate(handler: H) -> H:
        setattr(handler, _ROUTE, declared)
        return handler

    return decorate


def collect_routes(*handlers: Handler) -> list[Route]:
    """Return the routes of handlers that are decorated with ``@route``, in the order given.

    Args:
        handlers: Functions or bound methods.

    Raises:
        TypeError: A handler is not decorated.
    """
    for handler in handlers:
        if not hasattr(handler, _ROUTE):
            raise TypeError(f"{getattr(handler, '__qualname__', repr(handler))} is not decorated with @route")
    return [Route(handler=handler, **getattr(handler, _ROUTE)) for handler in handlers]


class Job(Contract, frozen=True):
    """Work that runs outside requests: an export, a refresh, maintenance.

    Args:
        name: Unique over all plugins, such as ``shop.refresh``.
        run: The function. It is called by name with what it takes: ``run``, a ``kernel.jobs.Run``, and ``parameters``,
            annotated with the Struct that the parameters are decoded into. Its result is stored as JSON.
        schedule: Cron expression of five fields, UTC, or an interval such as ``every 15m`` (s, m, h, d); None runs the
            job on demand only. ``[jobs.schedules]`` in the configuration overrides it.
        soft_timeout_s: Run time after which the run is asked to stop: its next ``check`` or ``progress`` raises.
        timeout_s: Run time after which the process of the run is killed.
        lock: Jobs with the same lock never run at the same time; the name of the job by default. May contain parameters
            in braces: ``refresh-{source}``. While a job is queued, another of the same lock is not queued again.
        retries: How often a failed run is tried again; a ``JobError`` decides for itself.
        retry_wait_s: Wait before the first retry; doubles with each.
        per_account: It runs for the account that starts it, as the identity that did: it sees and writes what that may,
            and each account has a lock of its own. Any other job is the service's own: it sees everything, and only
            staff may start it through the API. What a schedule or a command starts is the system account's.
    """

    name: str
    run: Callable[..., Any]
    schedule: str | None = None
    soft_timeout_s: float | None = None
    timeout_s: float = 3600.0
    lock: str | None = None
    retries: int = 0
    retry_wait_s: float = 10.0
    per_account: bool = False


class HealthCheck(Contract, frozen=True):
    """A health check of something that the plugin needs.

    Args:
        name: Unique over all plugins; as ``?exclude=`` takes it.
        probe: Returns a detail to show, or None; raises if the check fails. None for what only ``tiercel check``
            shows.
        critical: Whether a failure makes the service not ready, or only degraded.
        timeout_s: A probe that takes longer has failed; ``health.timeout_s`` by default.
        setup: Describes what is configured, from the settings alone: a line of ``tiercel check``.
        review: Reads from the database what deserves attention, though it makes nobody less ready, or returns None: a
            warning of ``tiercel check``.
    """

    name: str
    probe: Probe | None = None
    critical: bool = True
    timeout_s: float | None = None
    setup: Callable[[], str] | None = None
    review: Callable[[], str | None] | None = None


class Command(Contract, frozen=True):
    """A command under ``tiercel <plugin>``.

    Args:
        command: The command. It runs with the database open and migrated.
        demo: Arguments with which ``tiercel up`` runs it before it serves, to create what a new service lacks: demo
            data, or a first key; None if it does not.
        alias: A further name directly under ``tiercel``, not listed in help; for scripts that predate the plugin.
    """

    command: click.Command
    demo: tuple[str, ...] | None = None
    alias: str | None = None
