"""What Falcon alone does: one route that returns the bytes of a file."""

from __future__ import annotations

import os
from pathlib import Path

import falcon

CONTENT = Path(os.environ["BENCH_CONTENT"]).read_bytes()


class Bytes:
    """The route."""

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer."""
        response.data = CONTENT


app: falcon.App[falcon.Request, falcon.Response] = falcon.App()
app.add_route("/bytes", Bytes())
app.add_route("/readyz", Bytes())
