"""Options of a command out of the Struct that a route takes as its parameters."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec
from msgspec.structs import FieldInfo

from kernel.conversion import allowed, base_type, convert_each, struct_fields
from kernel.errors import InvalidError

T = TypeVar("T", bound=msgspec.Struct)
Function = Callable[..., Any]
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def struct_options(kind: type[T]) -> Callable[[Function], Function]:
    """Give a function, before it is made a command, an option for each field of a Struct.

    The function gets the Struct they make as its argument ``query``. ``sort_by`` becomes ``--sort-by``, commas part the
    values of a list, and what is wrong is said in the words of HTTP.

    Args:
        kind: The Struct; every field has a default, that of a bool is False. Its docstring helps.
    """
    fields, helps = struct_fields(kind), _helps(kind)

    def decorate(function: Function) -> Function:
        def command(**given: Any) -> Any:
            raw = {name: given.pop(name) for name in fields}
            values, errors = convert_each({n: v for n, v in raw.items() if v is not None}, kind, strict=False)
            if errors:
                raise InvalidError(f"Some options are wrong: {', '.join(sorted(errors))}.", errors=errors)
            return function(query=kind(**values), **given)

        # Options that were given to the function before stay, and so does what it says of itself.
        command.__doc__ = function.__doc__
        command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined] # as click has it
        for name, field in reversed(fields.items()):
            command = _option(name, field, helps.get(name))(command)
        return command

    return decorate


def _option(name: str, field: FieldInfo, text: str | None) -> Callable[[Function], Function]:
    flag = f"--{name.replace('_', '-')}"
    if base_type(field.type) is bool:
        return click.option(flag, name, is_flag=True, help=text)
    has_default = field.default is not msgspec.NODEFAULT and field.default not in (None, ())
    is_choice = typing.get_origin(base_type(field.type)) is typing.Literal
    metavar = f"[{allowed(field.type).replace(' or ', '|')}]" if is_choice else "TEXT"
    default = str(field.default) if has_default else None
    return click.option(flag, name, help=text, metavar=metavar, default=default, show_default=has_default)


def _helps(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return what the docstrings of a Struct and its bases say of each field."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        # inspect would look further up where a class says nothing.
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        found |= {name: " ".join(words.replace("``", "").split()) for name, words in _ARGUMENT.findall(text)}
    return found
