"""The host that a request is for, parsed in one place: ``Host``, what a trusted proxy says, and targets of requests."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import msgspec

_NAME_MAX = 253
_PORT_MAX = 2**16 - 1
# Unlike uri-host of RFC 3986, which allows quotes, parentheses and percent-encoded octets in names: a host is written
# into links. Names have underscores in private networks, such as those of containers.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?)(?::([1-9][0-9]{0,4}))?")
_IPV4 = re.compile(r"(?:.*\.)?[0-9]+\.?")


class Host(msgspec.Struct, frozen=True):
    """Where a request is for.

    Args:
        name: A name or an address, in lower case; an address of IPv6 is in brackets.
        port: None if there is none.
    """

    name: str
    port: int | None


@lru_cache(maxsize=1024)
def parse_host(text: str) -> Host:
    """Parse a name or an IP address with an optional port, as ``Host`` has it (RFC 9110, 7.2).

    Args:
        text: Without user information, which RFC 9110 rejects in section 4.2.4.

    Raises:
        ValueError: It is none, or the port is not between 1 and 65535.
    """
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError("neither a name nor an IP address, with or without a port")
    name, port = match[1].lower(), None if match[2] is None else int(match[2])
    if len(name) > _NAME_MAX or (port is not None and port > _PORT_MAX):
        raise ValueError("the name or the port is too large")
    if name.startswith("["):
        ipaddress.IPv6Address(name[1:-1])
    elif _IPV4.fullmatch(name):
        # No name ends with a number (https://url.spec.whatwg.org/#host-parsing).
        ipaddress.IPv4Address(name)
    return Host(name, port)
