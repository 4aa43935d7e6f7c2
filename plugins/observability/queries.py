"""The named queries of this plugin."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import LiteralString

from kernel import load_queries


def _load() -> Mapping[str, LiteralString]:
    queries = load_queries(__package__)
    visible, alone = queries["visible"], queries["alone"]
    filled = {name: text.replace("{visible}", visible).replace("{alone}", alone) for name, text in queries.items()}
    return MappingProxyType(filled)


QUERIES = _load()
