"""Features by tiers: which tier has which feature. A pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kernel.datasets import Derivation, Derived
from plugins.trace.datasets import TIERS
from plugins.trace.model import Feature, Tier


class MatrixColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A tier, as the head of a column.

    Args:
        slug: Identifies it, and finds it in each row.
        name: For people.
        level: From the lowest upwards.
    """

    slug: str
    name: str
    level: int


class MatrixRow(msgspec.Struct, frozen=True, kw_only=True):
    """A feature, and the tiers that have it.

    Args:
        slug: Identifies it.
        name: For people.
        area: The part of the product it belongs to.
        status: How far it is.
        tier: Slug of the lowest tier that has it; None if none has it yet.
        tiers: By slug of a tier, in order of the columns, whether it has the feature; None where that cannot be told,
            because the lowest one is not among the columns.
    """

    slug: str
    name: str
    area: str
    status: str
    tier: str | None
    tiers: Mapping[str, bool | None]


def make_matrix(items: Sequence[Feature], tiers: Sequence[Tier]) -> Derived:
    """Make a row for each feature, with a column for each tier.

    The lowest tier of a feature has it, and so has any other that is no lower and includes its area.

    Args:
        items: In the order of the rows.
        tiers: In the order of the columns.
    """
    levels = {tier.slug: tier.level for tier in tiers}
    rows = [
        MatrixRow(
            slug=feature.slug,
            name=feature.name,
            area=feature.area,
            status=feature.status,
            tier=feature.tier,
            tiers={tier.slug: _has(tier, feature, levels) for tier in tiers},
        )
        for feature in items
    ]
    return Derived(rows, {"tiers": [MatrixColumn(slug=tier.slug, name=tier.name, level=tier.level) for tier in tiers]})


def _has(tier: Tier, feature: Feature, levels: Mapping[str, int]) -> bool | None:
    if feature.tier == tier.slug:
        return True
    if feature.tier is None or feature.area not in tier.features:
        return False
    lowest = levels.get(feature.tier)
    return None if lowest is None else tier.level >= lowest


MATRIX = Derivation(item=MatrixRow, derive=make_matrix, other_datasets=(TIERS,))
