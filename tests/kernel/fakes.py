"""Plugins that are made in a test, a logger that captures events, and services of both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

import pytest
import structlog
from structlog.testing import LogCapture

from kernel.app import Tiercel
from kernel.errors import UnauthorizedError
from kernel.hookspecs import hookimpl
from kernel.http.request import Request
from kernel.identity import Identity, Scope
from kernel.logging import Logger
from kernel.testing import Client, make_configuration

# Nothing listens on this port: these tests need no database.
NOWHERE = "host=127.0.0.1 port=1"

MakePlugin = Callable[..., str]
Boot = Callable[..., Client]


class CapturedLog:
    """A logger, and the entries that were logged."""

    def __init__(self) -> None:
        self._capture = LogCapture()
        self.log = cast("Logger", structlog.wrap_logger(None, processors=[self._capture]))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of one event."""
        return [dict(entry) for entry in self._capture.entries if entry["event"] == name]


def install_plugin(monkeypatch: pytest.MonkeyPatch, name: str, hooks: dict[str, Callable[..., Any]]) -> str:
    """Make a module with hook implementations, and return its dotted path."""
    dotted = f"fakes.{name}"
    module = ModuleType(dotted)
    module.__spec__ = ModuleSpec(dotted, None)
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(function))
    monkeypatch.setitem(sys.modules, dotted, module)
    return dotted


def boot_service(plugins: Sequence[str], logger: Logger, **values: Any) -> Tiercel:
    """Boot a service of some plugins, without a database; no plugin is required."""
    given = {"required": [], "db": {"url": NOWHERE}, **values, "plugins": plugins}
    return Tiercel(make_configuration(**given), log=logger)


class KeyAuthenticator:
    """An authenticator that knows identities by the header ``X-Key``.

    Args:
        identities: By key.
    """

    def __init__(self, identities: Mapping[str, Identity]) -> None:
        self._identities = identities

    def authenticate(self, request: Request) -> Identity | None:
        key = request.get_header("X-Key")
        if key is not None and key not in self._identities:
            raise UnauthorizedError(detail="the key is unknown")
        return None if key is None else self._identities[key]

    def select(self, request: Request, identity: Identity) -> Identity:
        return identity

    def challenges(self) -> Sequence[str]:
        return ("X-Key",)

    def security_schemes(self) -> Mapping[str, Mapping[str, Any]]:
        return {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}}


def make_identity(*scopes: Scope, **fields: Any) -> Identity:
    """Make an identity of the system account with some scopes."""
    given = {"scheme": "api_key", "name": "key of a test", "account": 0, "scopes": frozenset(scopes), **fields}
    return Identity(**given)


def raise_oops(**_given: Any) -> Any:
    """Raise an error, as a hook with a bug does."""
    raise RuntimeError("oops")
