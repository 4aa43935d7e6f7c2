"""Features, gateways, tiers and tags. Only the slug is required, so that files from other tools can be imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of the product.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: What it does.
        area: The part of the product it belongs to, such as ``flow``. Applications list areas as their features.
        status: Its stage, such as ``live``.
        tier: Slug of the lowest tier that has it; None if none has it yet.
        gateways: Slugs of the gateways that offer it.
        tags: Slugs of its tags.
        properties: Further values; left out if there are none.
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
    """A way to reach the product, such as a web client.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: Who uses it.
        kind: Such as ``web`` or ``api``.
        status: Its stage, such as ``live``.
        tags: Slugs of its tags.
        properties: Further values; left out if there are none.
    """

    slug: str
    name: str = ""
    description: str = ""
    kind: str = ""
    status: str = ""
    tags: tuple[str, ...] = ()
    properties: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """A level of membership.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: Who it is for.
        level: Its rank; 0 is the lowest.
        features: Areas of the features that it includes, such as ``flow``.
        tags: Slugs of its tags.
        properties: Further values; left out if there are none.
    """

    slug: str
    name: str = ""
    description: str = ""
    level: int = 0
    features: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    properties: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A label of features, gateways and tiers.

    Args:
        slug: Identifies it, also in URLs.
        name: For people.
        description: What it means.
        color: Such as ``#2a6f97``.
        properties: Further values; left out if there are none.
    """

    slug: str
    name: str = ""
    description: str = ""
    color: str = ""
    properties: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET
