r"""Text of access logs: what servers escape as ``\xhh``, and what they should have escaped.

The library's grammar reads ``\x16`` both as one escaped byte and as ``\x`` followed by ``16``. A line with many of them
that does not fit its format, such as half a line of TLS garbage, would be tried in 2**n ways. ``escape_once`` writes
every byte in the one way that can be read in one way only.
"""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\\x([0-9A-Fa-f]{2})|\\.|[^ -~]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def escape_once(line: bytes) -> str:
    """Return a line as the library's grammar can read it in one way only; raw bytes come out escaped."""
    text = line.decode("latin-1")
    if "\\" not in text and text.isascii() and text.isprintable():
        return text
    return _ESCAPES.sub(_rewrite, text)


def _rewrite(match: re.Match[str]) -> str:
    found = match[0]
    character = chr(int(match[1], 16)) if match[1] else found
    if len(character) > 1:
        return found
    if " " <= character <= "~" and character not in '"\\':
        return character
    return "\\n" if character == "\n" else f"\\{character}"


def readable(content: bytes) -> str:
    r"""Return text that any column can hold: bytes that are no UTF-8, and control characters, become ``\xhh``."""
    text = content.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
