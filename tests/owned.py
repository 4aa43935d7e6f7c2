"""A plugin whose jobs and datasets belong to accounts."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kernel import (
    Dataset,
    Identity,
    Job,
    Request,
    Route,
    Services,
    collect_routes,
    hookimpl,
    route,
)
from kernel.datasets import Derivation, Derived
from kernel.identity import current_identity
from kernel.jobs import Run

GATE_TIMEOUT_S = 20.0


class Note(msgspec.Struct, frozen=True):
    slug: str
    text: str = ""
    color: str | None = None


class Color(msgspec.Struct, frozen=True):
    slug: str


COLORS = Dataset(name="colors", item=Color, key="slug")
NOTES = Dataset(name="notes", item=Note, key="slug", relations={"color": "colors"}, per_account=True)
LABELS = Dataset(name="labels", item=Color, key="slug", per_account=True)


class Texts(msgspec.Struct, frozen=True):
    """Parameters of ``owned.publish``: the notes, by slug."""

    texts: dict[str, str] = {}


class Gate(msgspec.Struct, frozen=True):
    """Parameters of ``owned.wait``: the file that ends it."""

    path: str


def report_identity(run: Run) -> Any:
    """Return who runs, and which jobs it can see."""
    identity = current_identity()
    run.progress(1, 1, "seen")
    run.log.info("who", identity=None if identity is None else identity.name)
    return None if identity is None else msgspec.to_builtins(identity)


def wait(run: Run, parameters: Gate) -> None:
    run.log.info("at_gate")
    deadline = time.monotonic() + GATE_TIMEOUT_S
    while not Path(parameters.path).exists() and time.monotonic() < deadline:
        run.check()
        time.sleep(0.02)


def concat(items: list[Note], previous: tuple[Note, ...]) -> Derived:
    """Derive the differences between the texts of two versions."""
    before = {note.slug: note.text for note in previous}
    return Derived([Note(note.slug, f"{before.get(note.slug, '')}>{note.text}") for note in items])


class OwnedRoutes:
    """Starts a job of the service for whoever may write, and reads notes of an account that the path names.

    Args:
        services: Jobs and datasets.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    @route("/owned/poke/", policy="write", method="POST")
    def poke(self, request: Request) -> int:
        """Start the service's own job."""
        return self._services.jobs.start("owned.service", request_id=request.request_id).id

    @route("/owned/of/{account}/", policy="read")
    def read(self, account: int) -> list[Note]:
        """Read the notes of an account."""
        return list(self._services.datasets.read("notes", account=account).items)

    @route("/owned/publish/", policy="write", method="POST")
    def publish(self, body: dict[str, str], identity: Identity) -> str:
        """Publish notes of the account."""
        items = [Note(slug, text) for slug, text in body.items()]
        return self._services.datasets.publish({NOTES: items}, source=identity.name)["notes"].outcome


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    return [NOTES, LABELS, COLORS]


@hookimpl
def register_jobs(services: Services) -> list[Job]:
    def publish(run: Run, parameters: Texts) -> str:
        items = [Note(slug, text) for slug, text in parameters.texts.items()]
        return services.datasets.publish({NOTES: items}, source=run.name, run=run)["notes"].outcome

    def publish_shared(run: Run) -> str:
        return services.datasets.publish({COLORS: [Color("red")]}, source=run.name, run=run)["colors"].outcome

    return [
        Job(name="owned.who", run=report_identity, per_account=True),
        Job(name="owned.wait", run=wait, per_account=True),
        Job(name="owned.publish", run=publish, per_account=True),
        Job(name="owned.publish_shared", run=publish_shared, per_account=True),
        Job(name="owned.service", run=report_identity),
    ]


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    routes = OwnedRoutes(services)
    return [
        services.dataset_route("/owned/public/notes/", NOTES, policy="read"),
        services.dataset_route("/owned/public/notes/{slug}/", NOTES, one=True, policy="read"),
        services.dataset_route(
            "/owned/public/changes/", NOTES, policy="read", derivation=Derivation(item=Note, derive=concat)
        ),
        services.dataset_route("/owned/public/colors/", COLORS),
        services.index_route("/owned/public/index/", [NOTES, COLORS], file="owned_index.json", policy="read"),
        *collect_routes(routes.poke, routes.read, routes.publish),
    ]
