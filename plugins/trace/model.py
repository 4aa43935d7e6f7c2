"""What a specification of features is made of. Only a slug is demanded, so that files of others load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A feature as it is specified.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: What it does.
        area: The part of the product it belongs to, such as ``flow``: what applications call a feature.
        status: How far it is, such as ``live``.
        tier: Slug of the lowest tier that has it; None if none has it yet.
        gateways: Slugs of those it is reached through.
        tags: Slugs of its tags.
        properties: Whatever else is told of it; nothing if nothing is.
    """

    slug: str
    name: str = ""
    description: str = ""
    area: str = ""
    status: str = ""
    tier: str | None = None
    gateways: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    properties: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """A way in, such as a web client.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: Who comes through it.
        kind: Such as ``web`` or ``api``.
        status: How far it is.
        tags: Slugs of its tags.
        properties: Whatever else is told of it; nothing if nothing is.
    """

    slug: str
    name: str = ""
    description: str = ""
    kind: str = ""
    status: str = ""
    tags: tuple[str, ...] = ()
    properties: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """What a member has.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: Whom it is for.
        level: From the lowest, 0, upwards.
        features: Areas of features that it includes, such as ``flow``.
        tags: Slugs of its tags.
        properties: Whatever else is told of it; nothing if nothing is.
    """

    slug: str
    name: str = ""
    description: str = ""
    level: int = 0
    features: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    properties: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A word that things are found by.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: What it marks.
        color: Such as ``#2a6f97``.
        properties: Whatever else is told of it; nothing if nothing is.
    """

    slug: str
    name: str = ""
    description: str = ""
    color: str = ""
    properties: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET
