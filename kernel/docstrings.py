"""Read docstrings: what they say of a thing, and of each of its arguments."""

from __future__ import annotations

import inspect
import re

_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
# After these, a docstring speaks to programmers.
_SECTION = re.compile(r"^(?:Args|Attributes|Raises|Returns|Yields|Examples?|Source):", re.MULTILINE)


def to_markdown(text: str) -> str:
    """Turn the markup of docstrings into Markdown."""
    return text.replace("``", "`")


def describe(docstring: str | None) -> str:
    """Return what a docstring says before its sections, as Markdown with a line for each paragraph."""
    text = _SECTION.split(inspect.cleandoc(docstring or ""), maxsplit=1)[0]
    paragraphs = [" ".join(each.split()) for each in text.split("\n\n")]
    return to_markdown("\n\n".join(filter(None, paragraphs)))


def describe_arguments(kind: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each argument, as Markdown."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        found |= {name: to_markdown(" ".join(words.split())) for name, words in _ARGUMENT.findall(text)}
    return found
