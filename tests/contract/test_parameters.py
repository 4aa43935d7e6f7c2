"""What every route of the plugins in the tree does with its parameters."""

from __future__ import annotations

import re
import typing

from kernel.contracts import Route
from kernel.conversion import struct_fields
from kernel.http.routing import EMPTY, MAY_BE_EMPTY
from kernel.testing import Client
from tests.kernel.fakes import CapturedLog, boot_service

PLUGINS = ("system", "accounts", "observability", "trace", "club", "contrib.skyflow", "contrib.nexus")
_PLACEHOLDER = re.compile(r"\{[a-z_]+\}")


def parameters_of(route: Route) -> set[str]:
    """Return the names of the parameters of a route."""
    kind = route.query
    if kind is None and callable(route.handler):
        kind = typing.get_type_hints(route.handler).get("query")
    return set() if kind is None else set(struct_fields(kind))


def test_an_empty_parameter_is_a_400_that_names_it_on_every_route_but_pages() -> None:
    client = Client(boot_service(PLUGINS, CapturedLog().log))
    tried = 0
    for mounted in client.service.shared.routes:
        method = mounted.route.method or "GET"
        path = _PLACEHOLDER.sub("1", mounted.template.replace("{application}", "skyflow"))
        # Browsers send the empty fields of a form.
        names = set() if mounted.is_page else parameters_of(mounted.route) - MAY_BE_EMPTY
        if names:
            answer = client.request(method, f"{path}?{'&'.join(f'{name}=' for name in sorted(names))}")

            assert answer.status == 400, path
            assert answer.json()["errors"] == {name: [EMPTY] for name in names}, path
            tried += 1
    assert tried > 20
