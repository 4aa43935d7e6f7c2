"""The limit of file descriptors, of which each connection takes one."""

from __future__ import annotations

import resource

from kernel.settings import Settings

# For modules, logs, listening sockets, pipes and what plugins open.
_RESERVE = 128


def raise_descriptor_limit(settings: Settings) -> str | None:
    """Raise the soft limit of this process, which those that it forks inherit, as far as the settings require.

    It is not raised beyond that: some programs close every descriptor that they could have before they start another.

    Returns:
        What is wrong, if the hard limit is too low; None otherwise.
    """
    connections = settings.server.connections_max
    required = connections + settings.db.pool_max + _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= required:
        return None
    possible = required if hard == resource.RLIM_INFINITY else min(required, hard)
    if possible > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible == required:
        return None
    return (
        f"{connections} connections (server.connections_max) take {required} file descriptors, and a process may have "
        f"{possible} (ulimit -Hn): it will close idle connections earlier"
    )
