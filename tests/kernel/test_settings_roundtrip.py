"""Whatever the settings can be, the environment can say."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kernel.config import Configuration
from kernel.conversion import base_type, nested_struct, struct_fields
from kernel.settings import Secret, Settings
from kernel.sources import PREFIX, FileSource, environment

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
_PART = _TEXT.map(lambda text: text.replace(",", "").strip()).filter(bool)
_URLS = st.sampled_from(["postgresql://u:p%20w@h:1/d", "host=h password='a b'", "postgres:///d?host=/run/pg"])
_BINDS = st.integers(0, 65535).map(lambda port: f"127.0.0.1:{port}") | _TEXT.map(
    lambda text: "unix:" + text.replace(",", "")
)
_SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "TIERCEL_DB__URL": _URLS.map(Secret),
    "TIERCEL_SERVER__BIND": _BINDS,
}
_BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    str: _TEXT,
    Path: _TEXT.map(Path),
    Secret: _TEXT.filter(lambda text: text.lower() != "null").map(Secret),
    tuple[str, ...]: st.lists(_PART, max_size=4).map(tuple),
    dict[str, str]: st.dictionaries(_TEXT, _TEXT, max_size=3),
}


def keys_of(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """List the keys below a table with their types."""
    for name, field in struct_fields(kind).items():
        inner = nested_struct(field.type)
        if inner is None:
            yield (*path, name), field.type
        else:
            yield from keys_of(inner, (*path, name))


def variable_of(path: tuple[str, ...]) -> str:
    """Return the canonical variable of a key."""
    return PREFIX + "__".join(path).upper()


def values_of(name: str, annotation: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the valid values of a key."""
    kind = base_type(annotation)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    metas = [meta for meta in getattr(annotation, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    least = next((meta.ge for meta in metas if meta.ge is not None), 0)
    most = next((meta.le for meta in metas if meta.le is not None), 2**40)
    if kind is int:
        return st.integers(int(least), int(most))
    if kind is float:
        return st.floats(float(least), float(most), exclude_min=True)
    return _SPECIAL[name] if name in _SPECIAL else _BY_TYPE[kind]


def as_text(value: Any) -> str:
    """Write a value as an environment variable."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return str(value)


KEYS = {path: values_of(variable_of(path), annotation) for path, annotation in keys_of(Settings)}


@given(st.fixed_dictionaries({}, optional=KEYS))
def test_valid_settings_written_to_the_environment_come_back(values: dict[tuple[str, ...], Any]) -> None:
    variables = {variable_of(path): as_text(value) for path, value in values.items()}

    settings = Configuration((environment(variables),), FileSource("nothing", {})).settings

    for path, value in values.items():
        found: Any = settings
        for part in path:
            found = getattr(found, part)
        assert found == value, variable_of(path)
