"""Mask secrets in what is printed: by type, by the names of keys, and by their place in URLs and connection strings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from kernel.settings import Secret

MASK = "***"
_NAMES = r"token|secret|passw|pwd|passphrase|authorization|credential|cookie|(?:api|access|private|shared)[_-]?key"
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
# Names up to this length are the same ones over and over.
_REMEMBERED_MAX = 100
# User and password of a URL; both, because some services take a token for the user.
_USER_INFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
# Parameters of URLs that are secrets under shorter names.
_QUERY = re.compile(r"(?<=[?&])((?:key|sig|signature|auth|code)=)[^&#\s\"'<>]+", re.IGNORECASE)
_QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'"
# A whole name that is one of a secret. It is looked at once from its beginning and never again, so that the time for a
# text of any origin is proportional to its length.
_NAME = rf"(?<![\w.-])(?=[\w.-]*?(?:{_NAMES}))[\w.-]++"
# ``api_key=x`` in a URL, ``password='x y'`` in a connection string.
_ASSIGNED = re.compile(rf"({_NAME}=)(?:{_QUOTED}|[^\s&#;,\"'<>)\]}}]+)", re.IGNORECASE)
# ``'Authorization': 'Bearer x'`` in a representation, ``"token": "x"`` in JSON.
_ITEM = re.compile(rf"([\"']{_NAME}[\"']\s*:\s*)(?:{_QUOTED})", re.IGNORECASE)
# ``Authorization: Bearer x`` in a header, and the value alone.
_SCHEME = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Tell whether values under a name are secrets: ``api_key``, ``X-Auth-Token``, ``PASSWORD`` ..."""
    return _is_secret_name(name) if len(name) <= _REMEMBERED_MAX else _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def mask_text(text: str) -> str:
    """Return a text with ``***`` in place of what looks like a secret in it.

    Args:
        text: A URL, a connection string, a representation of settings, or a message that quotes one.
    """
    if not ("=" in text or "@" in text or '"' in text or "'" in text or _SCHEME.search(text)):
        return text  # none of the patterns below matches
    text = _USER_INFO.sub(f"{MASK}@", text)
    text = _ITEM.sub(rf"\1'{MASK}'", text)
    for pattern in (_ASSIGNED, _QUERY):
        text = pattern.sub(rf"\1{MASK}", text)
    return _SCHEME.sub(rf"\1 {MASK}", text)


def mask(value: Any, name: str = "") -> Any:
    """Return a copy of a value for people: Structs as dictionaries, and ``***`` in place of secrets.

    Args:
        value: A value of any type.
        name: The key it has. Text is masked as a whole if secrets have such names.
    """
    if isinstance(value, str):
        return MASK if value and is_secret_name(name) else mask_text(value)
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, msgspec.Struct):
        return {key: mask(inner, key) for key, inner in msgspec.structs.asdict(value).items()}
    if isinstance(value, Mapping):
        return {key: mask(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask(inner, name) for inner in value]
    return value
