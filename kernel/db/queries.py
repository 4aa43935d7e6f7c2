"""Named queries: SQL in ``.sql`` files beside their plugin, parsed once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)


def load_queries(package: str, file: str = "queries.sql") -> Mapping[str, LiteralString]:
    """Read the named queries of a package.

    A line ``-- name: find_event`` starts a query; it ends where the next one starts. Values are parameters in
    psycopg's form ``%(name)s``. Only vetted text comes out of a file that ships with the code, hence ``LiteralString``.

    Args:
        package: Usually ``__package__``.
        file: Name of the file inside the package.

    Raises:
        ValueError: Two queries have one name, or text stands before the first name.
    """
    parts = _NAME.split(files(package).joinpath(file).read_text(encoding="utf-8"))
    if any(line and not line.startswith("--") for line in map(str.strip, parts[0].splitlines())):
        raise ValueError(f"{package}/{file}: SQL before the first '-- name:' line")
    queries: dict[str, LiteralString] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name in queries:
            raise ValueError(f"{package}/{file}: query {name!r} stands there twice")
        queries[name] = cast("LiteralString", text.strip())
    return MappingProxyType(queries)
