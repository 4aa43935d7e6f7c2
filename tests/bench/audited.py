"""A plugin with one handler that changes a row, on a route with an entry in the audit log and on one without."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import Route, Services, hookimpl

AUDITED = "/audited"
UNAUDITED = "/unaudited"
TABLE = "public.bench_change"


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the routes. Of those that change something, only what is ingested is not audited."""

    def change() -> dict[str, bool]:
        with services.db.transaction() as connection:
            connection.execute(f"INSERT INTO {TABLE} DEFAULT VALUES")
        return {"ok": True}

    return [
        Route(path=AUDITED, handler=change, policy="write", method="POST", logged=False),
        Route(path=UNAUDITED, handler=change, policy="ingest", method="POST", logged=False),
    ]
