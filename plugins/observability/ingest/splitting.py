"""Part a JSON array or object into its members without reading them.

The decoder gives up a whole document over half of a surrogate pair or endless nesting in one place. Parted first, only
the member that has it suffers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(_STRING + rb"|[\[\]{},]", re.DOTALL)
_KEY = re.compile(rb"\s*+(" + _STRING + rb")\s*+:", re.DOTALL)


def split_array(content: bytes) -> list[bytes]:
    """Return the items of a JSON array, each still JSON; whether it is valid is left to whoever decodes it.

    Raises:
        ValueError: It is no array, or it does not end where the text does.
    """
    return list(_members(content, b"[]"))


def split_object(content: bytes) -> dict[bytes, bytes]:
    """Return the members of a JSON object by key, both still JSON, the key without its quotes.

    Raises:
        ValueError: It is no object, or it does not end where the text does.
    """
    found: dict[bytes, bytes] = {}
    for member in _members(content, b"{}"):
        key = _KEY.match(member)
        if key is None:
            raise ValueError("a member without a name")
        found[key[1][1:-1]] = member[key.end() :].strip()
    return found


def _members(content: bytes, brackets: bytes) -> Iterator[bytes]:
    content = content.strip()
    if len(content) < len(brackets) or content[:1] + content[-1:] != brackets:
        raise ValueError("not closed")
    if not content[1:-1].strip():
        return
    depth, start, end = 0, 1, len(content) - 1
    for token in _TOKEN.finditer(content, 1, end):
        kind = token[0]
        if kind in b"[{":
            depth += 1
        elif kind in b"]}":
            depth -= 1
            if depth < 0:
                raise ValueError("closed too early")
        elif kind == b"," and depth == 0:
            yield content[start : token.start()].strip()
            start = token.end()
    if depth:
        raise ValueError("not closed")
    yield content[start:end].strip()
