"""The frozen Structs that plugins return from their hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

if TYPE_CHECKING:
    import click

Policy = Literal["public", "ingest", "read", "write", "staff"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Handler = Callable[..., Any]
Filter = Callable[[Sequence[Any]], Sequence[Any]]
Probe = Callable[[], str | None]
H = TypeVar("H", bound=Handler)
_ROUTE = "__tiercel_route__"


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what hooks return: frozen, given by name."""


class Application(Contract, frozen=True):
    """An application: a filtered view of the data everybody shares.

    Args:
        slug: Its segment in URLs, such as ``skyflow``.
        name: For people.
        features: The features it knows.
        filters: By name of a dataset, or another of its filter keys, a pure function from items to items. A missing one
            shows everything.
        services: The services whose request logs belong to it.
    """

    slug: str
    name: str
    features: tuple[str, ...] = ()
    filters: Mapping[str, Filter] = {}
    services: tuple[str, ...] = ()


class Dataset(Contract, frozen=True):
    """A kind of data that a plugin publishes.

    Args:
        name: Unique over all plugins.
        item: The Struct of one item.
        key: The field that identifies an item.
        order: Fields by which items are sorted; a leading ``-`` turns one around. The key decides between equals.
        filter_keys: Further names under which an application's filters may speak of it, such as ``tier``. Its name
            and ``<name>_filter`` always do.
        file: How the file is called that ``tiercel data export`` writes; ``<name>.json`` by default. A field in braces,
            as in ``{feature}-most-present.json``, makes one file for each of its values.
        relations: Fields that hold keys of other datasets, with the names of those: ``{"tags": "tags"}``. Such a field
            is a text, a text or None, or a tuple of texts. Routes put the items in their place: ``?include=tags``.
    """

    name: str
    item: type[msgspec.Struct]
    key: str
    order: tuple[str, ...] = ()
    filter_keys: tuple[str, ...] = ()
    file: str | None = None
    relations: Mapping[str, str] = {}

    def __hash__(self) -> int:
        # Unique, and relations have no hash.
        return hash(self.name)


class Route(Contract, frozen=True):
    """An HTTP route.

    The handler is a plain function. Its annotations say what it gets: ``request: Request``, ``query`` and ``body``
    with the Structs they are decoded into (or ``body: RawBody``), and one parameter for each ``{name}`` of the path.
    What it returns is encoded as JSON; ``Response`` sets status and headers. Errors are raised, as ``ApiError``.

    Args:
        method: GET answers HEAD as well.
        path: Such as ``/api/requests/{id}/``. Works with and without the last slash.
        handler: See above; or, with method None, a Falcon resource for full control.
        policy: Who may use it: everybody, senders, readers, writers or staff.
        aliases: Further paths of the same resource.
        menu: Label under which pages list it; none by default.
        logged: False leaves it out of the request log and its subscribers; meant for probes.
        per_application: Mount it for each application as well, the slug behind ``/public/``:
            ``/trace/public/tiers/`` and ``/trace/public/{application}/tiers/``. The handler's parameter
            ``application: Application | None`` says which; None is everybody's unfiltered view.
    """

    path: str
    handler: Handler | object
    policy: Policy
    method: Method | None = "GET"
    aliases: tuple[str, ...] = ()
    menu: str | None = None
    logged: bool = True
    per_application: bool = False


def route(
    path: str,
    *,
    policy: Policy,
    method: Method = "GET",
    aliases: tuple[str, ...] = (),
    menu: str | None = None,
    logged: bool = True,
    per_application: bool = False,
) -> Callable[[H], H]:
    """Declare where a handler is served; decorates a function or a method. Arguments as of ``Route``.

    It only marks the handler. ``register_routes`` returns what ``collect_routes`` makes of marked handlers.
    """
    declared = {
        "path": path,
        "policy": policy,
        "method": method,
        "aliases": aliases,
        "menu": menu,
        "logged": logged,
        "per_application": per_application,
    }

    def decorate(handler: H) -> H:
        setattr(handler, _ROUTE, declared)
        return handler

    return decorate


def collect_routes(*handlers: Handler) -> list[Route]:
    """Return the routes of handlers that are decorated with ``route``, in the order given.

    Args:
        handlers: Functions, or bound methods.

    Raises:
        TypeError: One of them is not decorated.
    """
    for handler in handlers:
        if not hasattr(handler, _ROUTE):
            raise TypeError(f"{getattr(handler, '__qualname__', repr(handler))} is not decorated with @route")
    return [Route(handler=handler, **getattr(handler, _ROUTE)) for handler in handlers]


class Job(Contract, frozen=True):
    """Work that runs outside requests: an export, a refresh, maintenance.

    Args:
        name: Unique over all plugins, such as ``club.refresh``.
        run: Called with the ``Run`` and, if it has parameters, the decoded Struct of them. What it returns is kept as
            JSON.
        parameters: The Struct of its parameters; None if it has none.
        schedule: Cron expression of five fields, UTC, or ``every 15m`` (s, m, h, d); None runs it on demand only.
            ``[jobs.schedules]`` of the configuration overrides it.
        soft_timeout_s: After this the run is asked to stop: its next ``check`` or ``progress`` raises.
        timeout_s: After this its process is killed.
        lock: Jobs with one lock never run at the same time; the job's name by default. May name parameters in braces:
            ``refresh-{source}``. One that waits is not queued a second time.
        retries: How often a run that failed is tried again; one that raised a ``JobError`` says itself whether to.
        retry_wait_s: Before the first retry; doubles with each.
    """

    name: str
    run: Callable[..., Any]
    parameters: type[msgspec.Struct] | None = None
    schedule: str | None = None
    soft_timeout_s: float | None = None
    timeout_s: float = 3600.0
    lock: str | None = None
    retries: int = 0
    retry_wait_s: float = 10.0


class HealthCheck(Contract, frozen=True):
    """A probe of something the plugin needs.

    Args:
        name: Unique over all plugins; what ``?exclude=`` takes.
        probe: Returns a word of detail or None; raises if the thing is not well.
        critical: Whether a failure makes the service not ready, or only degraded.
        timeout_s: A probe that takes longer has failed; ``health.timeout_s`` by default.
        setup: Says what is set up, from the settings alone: a line of ``tiercel check``.
    """

    name: str
    probe: Probe
    critical: bool = True
    timeout_s: float | None = None
    setup: Callable[[], str] | None = None


class Command(Contract, frozen=True):
    """A command under ``tiercel <plugin>``.

    Args:
        command: Runs with the database open and migrated.
        demo: Arguments with which ``tiercel up`` runs it to fill an empty service; None leaves it alone.
        alias: A further name, right under ``tiercel`` and not listed: for scripts that are older than the plugin.
    """

    command: click.Command
    demo: tuple[str, ...] | None = None
    alias: str | None = None
