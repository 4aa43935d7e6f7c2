"""Inspect the parameters of functions that the kernel calls by name: handlers, jobs, derivations, filters."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary


def parameter_types(function: Callable[..., Any], known: Collection[str] | None = None) -> dict[str, Any]:
    """Return the types of a function's parameters by name; ``Any`` where one has no annotation.

    Parameters that the kernel does not know are left out if they have a default.

    Args:
        function: A function, a bound method, or a callable object.
        known: Names of the arguments that the kernel can pass; None for any.

    Raises:
        TypeError: A parameter is not known, cannot be passed by name, or has an annotation that cannot be resolved.
    """
    name = _name_of(function)
    inspected = _inspect(function)
    hints = inspected.hints
    types: dict[str, Any] = {}
    for parameter in inspected.parameters:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if known is not None and parameter.name not in known:
            if parameter.default is not inspect.Parameter.empty:
                continue
            raise TypeError(f"{name} takes {parameter.name!r}; it can be given {', '.join(sorted(known)) or 'nothing'}")
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"{name} takes {parameter.name!r} by position only; it is called by name")
        types[parameter.name] = hints.get(parameter.name, Any)
    return types


def return_type(function: Callable[..., Any]) -> Any:
    """Return the type of what a function returns; ``Any`` without an annotation.

    Args:
        function: A function, a bound method, or a callable object.

    Raises:
        TypeError: An annotation cannot be resolved.
    """
    return _inspect(function).hints.get("return", Any)


def has_parameter(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a function has a parameter of this name.

    Args:
        function: A function, a bound method, or a callable object.
        name: The name.

    Raises:
        TypeError: An annotation cannot be resolved.
    """
    return any(parameter.name == name for parameter in _inspect(function).parameters)


def accepts_any_keyword(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes ``**names`` besides its other parameters."""
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in _inspect(function).parameters)


class _Inspected(NamedTuple):
    hints: Mapping[str, Any]
    parameters: Sequence[inspect.Parameter]


# Inspecting functions is a third of what a start does with routes, and it asks for each several times. Those of methods
# are the same in every service of a process.
_functions: WeakKeyDictionary[Callable[..., Any], _Inspected] = WeakKeyDictionary()
_methods: WeakKeyDictionary[Callable[..., Any], _Inspected] = WeakKeyDictionary()


def _inspect(function: Callable[..., Any]) -> _Inspected:
    # The same function may be bound to a class or to an object of it: in either case without its first parameter.
    if inspect.ismethod(function):
        known, key = _methods, function.__func__
    elif inspect.isfunction(function):
        known, key = _functions, function
    else:
        return _inspect_anew(function)
    found = known.get(key)
    if found is None:
        found = known[key] = _inspect_anew(function)
    return found


def _inspect_anew(function: Callable[..., Any]) -> _Inspected:
    return _Inspected(_resolve_hints(function), tuple(inspect.signature(function).parameters.values()))


def _resolve_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_annotated(function), include_extras=True)
    except NameError as ex:
        raise TypeError(f"the annotations of {_name_of(function)} cannot be resolved at run time: {ex}") from ex


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _annotated(function: Callable[..., Any]) -> Any:
    """Return the function that has the annotations of a callable."""
    if isinstance(function, functools.partial):
        return _annotated(function.func)
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__
