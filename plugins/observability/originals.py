"""Keep in an event's tags what its series does not tell any more."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from plugins.observability.model import ENDPOINT_MAX

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def keep(tags: bytes, originals: Mapping[str, str]) -> bytes:
    """Add texts to tags; what the sender put there stays.

    Args:
        tags: A JSON object. Its other members are not read, so that numbers of any size stay as they were sent.
        originals: Texts by name. Where a name is taken, ``_`` is added to it, unless the text stands there
            already, or what it was cut from to fit an endpoint.
    """
    try:
        members = _MEMBERS.decode(tags)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return tags  # half a surrogate pair in a name: the server will refuse the event for it
    for name, text in originals.items():
        place = name
        while place in members and not _tells(members[place], text):
            place += "_"
        if place not in members:
            members[place] = msgspec.Raw(msgspec.json.encode(text))
    return msgspec.json.encode(members)


def _tells(raw: msgspec.Raw, text: str) -> bool:
    try:
        return text in ((told := msgspec.json.decode(raw, type=str)), told[:ENDPOINT_MAX].strip())
    except msgspec.DecodeError:
        return False
