"""What tags may hold. They are stored as jsonb, which keeps every digit, and sent back to whoever asks.

Tags stay JSON text all the way: decoding them would cost more than everything else, and lose digits. So they are
bounded as text, both as sent and as served: the server writes ``1e300`` out in 301 digits, and a space after each comma
and colon.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import msgspec

from kernel import JsonOutline

NO_NUL = "Null characters are not allowed."
# Decoders of JSON give up soon beyond this: PHP's at 512, that of Python at its limit of recursion.
DEPTH_MAX = 500
VALUES_MAX = 5000

# In no JSON text.
_SEPARATOR = b"\x00"
_NUMBER = re.compile(rb"-?[0-9][0-9.eE+-]*+")
_EXPONENT = re.compile(rb"[0-9][eE][+-]?0*+([0-9]*+)")
# A number that is out of range has an exponent of at least three digits, or hundreds of digits. To look for either, all
# digits are made one, and signs are left out.
_ONE_DIGIT = bytes.maketrans(b"123456789E", b"000000000e")
_SIGNS = b"+-"
_LONG_EXPONENT = b"0e000"
# With an exponent of two digits, this many are well inside the range.
_LONG_NUMBER = b"0" * 200
# Shorter tags have neither too many values nor too many levels: an array takes two bytes, a value and its comma too.
_SHORT_BYTES = 2 * min(DEPTH_MAX, VALUES_MAX)
# As served, a text has at most so many times its bytes as sent: "1e308," becomes 309 digits, a comma and a space.
_GROWTH_MAX = 52


def validate_tags(content: bytes) -> str | None:
    """Return what is wrong with tags, for their sender; None if nothing is. How long they are is left to their storage.

    Args:
        content: A JSON object, UTF-8.
    """
    # An escaped backslash before "u0000" is not a null character.
    if b"\\u0000" in content and b"\\u0000" in content.replace(b"\\\\", b""):
        return NO_NUL
    if len(content) > _SHORT_BYTES and (wrong := _too_many(content)) is not None:
        return wrong
    if _may_be_out_of_range(content):
        for match in _NUMBER.finditer(JsonOutline(content).text):
            if not _fits_double(match[0]):
                return f"Numbers must be in the range of a double, at most 1.8e308, got {match[0].decode():.40}."
    return None


def invalid_tags_positions(tags: Sequence[msgspec.Raw], longest_bytes: int) -> list[int]:
    """Return the positions of those that are no object, or that ``validate_tags`` rejects, by one look at all of them.

    Args:
        tags: JSON values that the server can store as text.
        longest_bytes: The length of the longest.
    """
    joined = _SEPARATOR.join(tags)
    objects = joined.startswith(b"{") + joined.count(_SEPARATOR + b"{")
    suspicious: Sequence[int] = ()
    if objects != len(tags) or _may_be_out_of_range(joined):
        suspicious = range(len(tags))
    elif longest_bytes > _SHORT_BYTES:
        suspicious = [at for at, value in enumerate(tags) if len(value) > _SHORT_BYTES]
    values = ((at, bytes(tags[at])) for at in suspicious)
    return [at for at, value in values if not value.startswith(b"{") or validate_tags(value) is not None]


def may_be_oversized(longest_bytes: int, max_bytes: int) -> bool:
    """Tell whether tags that are so long as sent may be longer than a limit as served."""
    return longest_bytes > max_bytes // _GROWTH_MAX


def oversized_tags_positions(tags: Iterable[msgspec.Raw], max_bytes: int) -> list[int]:
    """Return the positions of tags that are longer than a limit, as sent or as served.

    Args:
        tags: Those that ``validate_tags`` accepts.
        max_bytes: The limit.
    """
    suspicious = ((at, bytes(text)) for at, text in enumerate(tags) if may_be_oversized(len(text), max_bytes))
    return [at for at, text in suspicious if len(text) > max_bytes or _served_bytes_max(text) > max_bytes]


def oversized_tags(max_bytes: int) -> str:
    """Return what their sender is told."""
    return f"Tags may have at most {max_bytes} bytes, also with all digits of numbers written out."


def _too_many(content: bytes) -> str | None:
    openings = content.count(b"[") + content.count(b"{")
    if openings <= DEPTH_MAX and openings + content.count(b",") < VALUES_MAX:
        return None  # also if some of them are in strings
    outline = JsonOutline(content)
    if outline.count_values() > VALUES_MAX:
        return f"Tags may have at most {VALUES_MAX} values."
    if outline.depth() > DEPTH_MAX:
        return f"Tags may have at most {DEPTH_MAX} levels."
    return None


def _served_bytes_max(content: bytes) -> int:
    """Return a number of bytes that the text of tags has at most, both as sent and as the server writes it."""
    outline = JsonOutline(content).text
    digits = sum(int(match[1] or 0) for match in _EXPONENT.finditer(outline))
    return len(content) + outline.count(b",") + outline.count(b":") + digits


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
