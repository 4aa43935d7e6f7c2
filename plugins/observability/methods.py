"""Names of HTTP methods. They are upper case; names that are not registered are kept, and counted."""

from __future__ import annotations

from plugins.observability.series import OTHER

# https://www.iana.org/assignments/http-methods: RFC 9110, RFC 5789 (PATCH), WebDAV and its extensions, and the others.
# OpenTelemetry writes _OTHER for a method that its sender does not know.
# fmt: off
KNOWN_METHODS = frozenset({
    "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LABEL",
    "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS",
    "ORDERPATCH", "PATCH", "POST", "PRI", "PROPFIND", "PROPPATCH", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH",
    "TRACE", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL", "_OTHER",
})
# fmt: on


def normalize_method(text: str) -> str:
    """Return the name of a method without blanks, in upper case.

    What is not ASCII is no method, and stays as it is: in upper case it could be longer. So does the name under which
    capped series are counted, which comes back with exported events.
    """
    name = text.strip()
    return name.upper() if name.isascii() and name != OTHER else name


def is_known(method: str) -> bool:
    """Tell whether a normalized name is that of a registered method, or stands for one."""
    return method in KNOWN_METHODS or method == OTHER
