"""What commands read: options made from a Struct, such as a route's query parameters, and passwords."""

from __future__ import annotations

import inspect
import os
import re
import sys
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec
from msgspec.structs import FieldInfo

from kernel.config import PASSWORD_VARIABLE
from kernel.conversion import base_type, convert_fields, describe_type, struct_fields
from kernel.errors import InvalidError

T = TypeVar("T", bound=msgspec.Struct)
Function = Callable[..., Any]
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def read_password(*, from_stdin: bool) -> str:
    """Return a password for a command: from the environment, from standard input, or by asking for it, twice.

    Never take one as an argument: other users of the machine see the arguments of processes, and shells keep them.

    Args:
        from_stdin: Read one line of standard input.
    """
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if password := os.environ.get(PASSWORD_VARIABLE):
        return password
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return asked


def struct_options(kind: type[T]) -> Callable[[Function], Function]:
    """Add an option to a command for each field of a Struct.

    The function takes the Struct as its argument ``query``. A field ``sort_by`` is the option ``--sort-by``; commas
    separate the values of a list. Errors have the same messages as in query strings::

        @click.command()
        @struct_options(ProductQuery)
        def products(query: ProductQuery) -> None: ...

    Args:
        kind: The Struct. Every field has a default, and that of a bool is False. The help texts are the ``Args`` of its
            docstring.

    Raises:
        InvalidError: Raised by the command if options are invalid.
    """
    fields, helps = struct_fields(kind), _help_texts(kind)

    def decorate(function: Function) -> Function:
        def command(**given: Any) -> Any:
            raw = {name: given.pop(name) for name in fields}
            values, errors = convert_fields({n: v for n, v in raw.items() if v is not None}, kind, strict=False)
            if errors:
                raise InvalidError(f"Some options are wrong: {', '.join(sorted(errors))}.", errors=errors)
            return function(query=kind(**values), **given)

        # Keep the docstring, and options that decorators below this one added.
        command.__doc__ = function.__doc__
        command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined] # as click has it
        for name, field in reversed(fields.items()):
            command = _option(name, field, helps.get(name))(command)
        return command

    return decorate


def _option(name: str, field: FieldInfo, help_text: str | None) -> Callable[[Function], Function]:
    flag = f"--{name.replace('_', '-')}"
    if base_type(field.type) is bool:
        return click.option(flag, name, is_flag=True, help=help_text)
    has_default = field.default is not msgspec.NODEFAULT and field.default not in (None, ())
    is_choice = typing.get_origin(base_type(field.type)) is typing.Literal
    metavar = f"[{describe_type(field.type).replace(' or ', '|')}]" if is_choice else "TEXT"
    default = _as_text(field.default) if has_default else None
    return click.option(flag, name, help=help_text, metavar=metavar, default=default, show_default=has_default)


def _as_text(value: object) -> str:
    """Return a default as it would be given."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _help_texts(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the descriptions of fields in the docstrings of a Struct and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        # inspect.getdoc would return the docstring of a base for a class without one.
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        found |= {name: " ".join(words.replace("``", "").split()) for name, words in _ARGUMENT.findall(text)}
    return found
