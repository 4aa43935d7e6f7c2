"""The feature matrix: a row for each feature, and in a column for each tier whether that tier includes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kernel.datasets import Derivation, Derived
from plugins.trace.datasets import TIERS
from plugins.trace.models import Feature, Tier


class MatrixColumn(msgspec.Struct, frozen=True, kw_only=True):
    """The heading of a column: a tier.

    Args:
        slug: Identifies it, also in the ``tiers`` of each row.
        name: For people.
        level: Its rank; 0 is the lowest.
    """

    slug: str
    name: str
    level: int


class MatrixRow(msgspec.Struct, frozen=True, kw_only=True):
    """A feature, and the tiers that include it.

    Args:
        slug: Identifies it.
        name: For people.
        area: The part of the product it belongs to.
        status: Its stage, such as ``live``.
        tier: Slug of the lowest tier that has it; None if none has it yet.
        tiers: Whether each tier includes the feature, by slug, in the order of the columns; None if that is unknown,
            because the lowest tier is hidden from the application.
    """

    slug: str
    name: str
    area: str
    status: str
    tier: str | None
    tiers: Mapping[str, bool | None]


def make_matrix(items: Sequence[Feature], tiers: Sequence[Tier]) -> Derived:
    """Derive the matrix of features and tiers.

    A feature is included in its lowest tier, and in every tier of the same or a higher level that includes its area.

    Args:
        items: The features, one for each row, in order.
        tiers: The columns, in order.
    """
    levels = {tier.slug: tier.level for tier in tiers}
    rows = [
        MatrixRow(
            slug=feature.slug,
            name=feature.name,
            area=feature.area,
            status=feature.status,
            tier=feature.tier,
            tiers={tier.slug: _includes(tier, feature, levels) for tier in tiers},
        )
        for feature in items
    ]
    return Derived(rows, {"tiers": [MatrixColumn(slug=tier.slug, name=tier.name, level=tier.level) for tier in tiers]})


def _includes(tier: Tier, feature: Feature, levels: Mapping[str, int]) -> bool | None:
    if feature.tier == tier.slug:
        return True
    if feature.tier is None or feature.area not in tier.features:
        return False
    lowest_level = levels.get(feature.tier)
    return None if lowest_level is None else tier.level >= lowest_level


MATRIX = Derivation(item=MatrixRow, derive=make_matrix, other_datasets=(TIERS,))
