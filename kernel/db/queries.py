"""Load named queries: SQL in ``.sql`` files next to the code that uses it, parsed once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)
# A misspelt name line would be an ordinary comment, and append its query to the one above.
_MISSPELT_NAME = re.compile(r"^--[ \t]*name[ \t]*:.*$", re.MULTILINE | re.IGNORECASE)


def load_queries(package: str, file: str = "queries.sql") -> Mapping[str, LiteralString]:
    """Read the named queries of a package.

    A line ``-- name: find_event`` starts a query, which ends where the next one starts. Values are parameters in
    psycopg's form ``%(name)s``. The text comes from a file that ships with the code, hence ``LiteralString``.

    Args:
        package: Usually ``__package__``.
        file: Name of the file inside the package.

    Returns:
        Queries by name.

    Raises:
        ValueError: Two queries have the same name, a name line is misspelt, or there is SQL before the first name.
    """
    text = files(package).joinpath(file).read_text(encoding="utf-8")
    for line in _MISSPELT_NAME.findall(text):
        if not _NAME.fullmatch(line):
            raise ValueError(f"{package}/{file}: {line!r} is not '-- name: ' and a name in snake_case")
    parts = _NAME.split(text)
    if any(line and not line.startswith("--") for line in map(str.strip, parts[0].splitlines())):
        raise ValueError(f"{package}/{file}: SQL before the first '-- name:' line")
    queries: dict[str, LiteralString] = {}
    for name, query in zip(parts[1::2], parts[2::2], strict=True):
        if name in queries:
            raise ValueError(f"{package}/{file}: query {name!r} is defined twice")
        queries[name] = cast("LiteralString", query.strip())
    return MappingProxyType(queries)
