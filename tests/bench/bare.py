"""What Falcon alone does: one route that returns a small dict."""

from __future__ import annotations

import falcon
import msgspec

from tests.bench.small import SMALL


class Small:
    """The route."""

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer."""
        response.data = msgspec.json.encode(SMALL)


app: falcon.App[falcon.Request, falcon.Response] = falcon.App()
app.add_route("/small", Small())
app.add_route("/readyz", Small())
