"""What tags may hold. They are stored as jsonb, which keeps every digit, and sent back to whoever asks.

Tags stay JSON text all the way: decoding them would cost more than everything else, and lose digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

NO_NUL = "Null characters are not allowed."

# In no JSON text.
_SEPARATOR = b"\x00"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(_STRING + rb"|(-?[0-9][0-9.eE+-]*+)", re.DOTALL)
# A number that is out of range has an exponent of at least three digits, or hundreds of digits. To look for either, all
# digits are made one, and signs are left out.
_ONE_DIGIT = bytes.maketrans(b"123456789E", b"000000000e")
_SIGNS = b"+-"
_LONG_EXPONENT = b"0e000"
# With an exponent of two digits, this many are well inside the range.
_LONG_NUMBER = b"0" * 200


def validate_tags(content: bytes) -> str | None:
    """Return what is wrong with tags, for their sender; None if nothing is.

    Args:
        content: A JSON object, UTF-8.
    """
    # An escaped backslash before "u0000" is not a null character.
    if b"\\u0000" in content and b"\\u0000" in content.replace(b"\\\\", b""):
        return NO_NUL
    if _may_be_out_of_range(content):
        for match in _TOKEN.finditer(content):
            number = match[1]
            if number is not None and not _fits_double(number):
                return f"Numbers must be in the range of a double, at most 1.8e308, got {number.decode():.40}."
    return None


def invalid_tags_positions(tags: Sequence[msgspec.Raw]) -> list[int]:
    """Return the positions of those that are no object, or that ``validate_tags`` rejects, by one look at all of them.

    Args:
        tags: JSON values that the server can store as text.
    """
    joined = _SEPARATOR.join(tags)
    objects = joined.startswith(b"{") + joined.count(_SEPARATOR + b"{")
    if objects == len(tags) and not _may_be_out_of_range(joined):
        return []
    values = map(bytes, tags)
    return [at for at, value in enumerate(values) if not value.startswith(b"{") or validate_tags(value) is not None]


def _may_be_out_of_range(content: bytes) -> bool:
    digits = content.translate(_ONE_DIGIT, _SIGNS)
    return _LONG_EXPONENT in digits or _LONG_NUMBER in digits


def _fits_double(number: bytes) -> bool:
    """Tell whether a double can hold a JSON number, if not all of its digits.

    Zero fits, but not with an exponent of hundreds: the server would write it out in as many digits.
    """
    value = float(number)
    if value:
        return math.isfinite(value)
    mantissa, _, exponent = number.lower().partition(b"e")
    return not mantissa.strip(b"-0.") and len(exponent.lstrip(b"+-0")) <= 2
