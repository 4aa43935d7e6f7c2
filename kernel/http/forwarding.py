"""Who a request comes from, and where it is for: what proxies say about it counts only if they are trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kernel.errors import MalformedError
from kernel.http.host import parse_host
from kernel.http.request import Request
from kernel.http.response import FalconResponse

# Stands for every client of a Unix socket in ``http.trusted_proxies``: they have no address.
UNIX = "unix"
_SCHEMES = ("http", "https")
# An IPv6 network of one subscriber has at most this prefix (RFC 6177).
_IPV6_PREFIX = 64
# Removed from every request: what they say is in REMOTE_ADDR, wsgi.url_scheme and HTTP_HOST, or is not trusted.
_FORWARDING_HEADERS = (
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_FORWARDED_PREFIX",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_PROTOCOL",
    "HTTP_X_FORWARDED_SSL",
    "HTTP_X_FORWARDED_URI",
    "HTTP_X_REAL_IP",
    "HTTP_X_SCRIPT_NAME",
    "HTTP_SCRIPT_NAME",
)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For``, ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` count.

    Args:
        trusted: Addresses and networks, such as ``10.0.0.0/8``, and ``unix`` for the clients of a Unix socket.

    Raises:
        ValueError: One of them is neither.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(each) for each in trusted if each != UNIX)
        self._trusts_unix = UNIX in trusted
        self._trusts_any = bool(trusted)

    def apply(self, environ: dict[str, Any]) -> None:
        """Replace address, scheme and host of a request by those that a trusted proxy names; forget what others say.

        Of several values of a header the last one counts, because the first ones may be the client's own. The client
        is the last address of ``X-Forwarded-For`` that is not that of a trusted proxy.

        Args:
            environ: The WSGI environment, which is changed.
        """
        if self._trusts_any and self._is_trusted(environ.get("REMOTE_ADDR", "")):
            self._believe(environ)
        for name in _FORWARDING_HEADERS:
            environ.pop(name, None)

    def _believe(self, environ: dict[str, Any]) -> None:
        for part in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
            address = _parse_address(part.strip())
            if address is None:
                break
            environ["REMOTE_ADDR"] = str(address)
            # That of the proxy's own connection.
            environ.pop("REMOTE_PORT", None)
            if not self._contains(address):
                break
        scheme = _last(environ.get("HTTP_X_FORWARDED_PROTO", "")).lower()
        if scheme in _SCHEMES:
            environ["wsgi.url_scheme"] = scheme
        if host := _last(environ.get("HTTP_X_FORWARDED_HOST", "")):
            environ["HTTP_HOST"] = host

    def _is_trusted(self, peer: str) -> bool:
        if not peer:
            return self._trusts_unix
        address = _parse_address(peer)
        return address is not None and self._contains(address)

    def _contains(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


class ForwardingMiddleware:
    """Falcon middleware: settles client, scheme and host of a request before anything looks at them.

    Args:
        proxies: Those whose word counts.
    """

    def __init__(self, proxies: TrustedProxies) -> None:
        self._proxies = proxies

    def process_request(self, request: Request, _response: FalconResponse) -> None:
        """Apply the headers of trusted proxies, and ensure that ``Host`` is one.

        Raises:
            MalformedError: It is not, whatever server runs the application.
        """
        env = request.env
        self._proxies.apply(env)
        host = env.get("HTTP_HOST")
        if host is not None:
            ensure_host(host)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return what counts as one client: an address of IPv4, or the /64 of one of IPv6, which one subscriber has whole.

    Args:
        address: Of IPv4, also mapped into IPv6, or of IPv6. Clients of a Unix socket have none: they count as one.
    """
    try:
        parsed = _unmap(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))


def ensure_host(text: str) -> None:
    """Ensure that a text is a host, with or without a port.

    Raises:
        MalformedError: It is not.
    """
    try:
        parse_host(text)
    except ValueError as ex:
        raise MalformedError("Host is malformed.", detail=f"{text!r:.100}") from ex


def _last(values: str) -> str:
    return values.rpartition(",")[2].strip()


@lru_cache(maxsize=1024)
def _parse_address(text: str) -> _Address | None:
    """Parse an address as proxies write it: some add the port, and put an address of IPv6 in brackets."""
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and (host.endswith("]") or host.count(":") == 0):
        text = host
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return _unmap(address)


def _unmap(address: _Address) -> _Address:
    """Return the address of IPv4 that is mapped into one of IPv6, or the address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
