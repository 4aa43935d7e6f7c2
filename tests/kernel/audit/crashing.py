"""A plugin whose process is killed while it serves a request, at the place that the request names."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Literal

import msgspec

from kernel import Route, Services, hookimpl

Place = Literal["nowhere", "before the commit", "after the commit", "after autocommit"]


class Query(msgspec.Struct, frozen=True):
    """Where to be killed."""

    at: Place


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the route."""

    def change(query: Query) -> None:
        def pass_by(place: Place) -> None:
            if query.at == place:
                os.kill(os.getpid(), signal.SIGKILL)

        if query.at == "after autocommit":
            with services.db.connection() as connection:
                connection.execute("INSERT INTO public.thing VALUES (%s)", [query.at])
            pass_by("after autocommit")
        with services.db.transaction() as connection:
            connection.execute("INSERT INTO public.thing VALUES (%s)", [query.at])
            pass_by("before the commit")
        pass_by("after the commit")

    return [Route(path="/crash/", handler=change, policy="write", method="POST")]
