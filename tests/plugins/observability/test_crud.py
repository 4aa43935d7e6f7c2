"""One request log: create, read, change, delete."""

from __future__ import annotations

from tests.conftest import Serve
from tests.plugins.observability.events import make_event


def test_what_was_posted_is_read_back(serve: Serve) -> None:
    client = serve()

    created = client.post("/api/requests/", make_event(tags={"env": "prod"}))

    assert created.status == 201
    assert client.get(f"/api/requests/{created.json()['id']}/").json() == created.json()
    assert created.json()["tags"] == {"env": "prod"}
