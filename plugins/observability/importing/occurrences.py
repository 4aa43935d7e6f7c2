"""Number identical lines, so that each of them is an event of its own, and the same one in every run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from plugins.observability.ids import Tail, derived_tail

# Bounds what this takes to some 200 MB. Lines of one log that are identical share their second.
REMEMBERED_LINES = 1_000_000
_DIGEST_BYTES = 16


class Occurrences:
    """Counts identical lines of one file.

    Of two identical lines with a million different ones between them, the second is taken for the first seen again.

    Args:
        remembered: How many different lines are remembered.
    """

    def __init__(self, remembered: int = REMEMBERED_LINES) -> None:
        self._remembered = remembered
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def tail(self, service: str, line: bytes) -> Tail:
        """Return what makes the id of this line's event; see ``ids``."""
        digest = hashlib.blake2b(line, digest_size=_DIGEST_BYTES).digest()
        count = self._counts.get(digest, 0)
        self._counts[digest] = count + 1
        if count:
            self._counts.move_to_end(digest)
        elif len(self._counts) > self._remembered:
            self._counts.popitem(last=False)
        return derived_tail(service.encode(), digest, count.to_bytes(8, "big"))
