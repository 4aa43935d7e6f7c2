"""Parameters of functions that are called by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from kernel.signatures import accepts_any_keyword, parameter_types


class Greeting:
    def show(self, name: str, count: int) -> None:
        """Take two parameters."""


def by_position(items: list[int], /) -> None:
    """Take a positional-only parameter."""


def with_default(items: list[int], limit: int = 3) -> None:
    """Take a parameter with a default."""


def unresolvable(items: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Take something that is not there."""


def test_parameters_have_the_types_of_their_annotations() -> None:
    assert parameter_types(Greeting().show) == {"name": str, "count": int}
    assert parameter_types(lambda items: None) == {"items": Any}
    assert parameter_types(with_default, {"items"}) == {"items": list[int]}


def test_a_parameter_that_cannot_be_passed_is_rejected_by_name() -> None:
    with pytest.raises(TypeError, match=r"Greeting.show takes 'count'; it can be given name$"):
        parameter_types(Greeting().show, {"name"})
    with pytest.raises(TypeError, match="by_position takes 'items' by position only"):
        parameter_types(by_position, {"items"})
    with pytest.raises(TypeError, match="the annotations of unresolvable cannot be resolved"):
        parameter_types(unresolvable)


def test_callable_objects_and_partial_functions_have_parameters() -> None:
    class Doubler:
        def __call__(self, number: int) -> int:
            return 2 * number

    def power(number: int, exponent: float) -> float:
        return float(number**exponent)

    assert parameter_types(Doubler()) == {"number": int}
    assert parameter_types(partial(power, exponent=2.0)) == {"number": int, "exponent": float}


def test_a_function_may_take_any_keyword() -> None:
    def any_keyword(name: str, **others: int) -> None:
        """Take more than one parameter."""

    assert accepts_any_keyword(any_keyword)
    assert parameter_types(any_keyword) == {"name": str}
    assert not accepts_any_keyword(Greeting().show)
