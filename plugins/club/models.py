"""The items of the community's datasets: as fetched from sources, and as ranked for applications."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

DatasetName = Literal["hero-metrics", "most-present"]

INT64_MAX = 2**63 - 1
# Far below the largest float, so that sums and differences never become infinite, which JSON cannot express.
VALUE_MAX = 1e300

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# Appears in URLs and in file names; a slash would end it in the id of a member.
Feature = Annotated[str, msgspec.Meta(pattern=r"^(?=[^\W_])[^/\x00-\x1f\x7f]+\Z", max_length=64)]
Value = Annotated[float, msgspec.Meta(ge=-VALUE_MAX, le=VALUE_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]


class HeroMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A key figure of the community.

    Args:
        metric: Identifier, the dataset's key.
        name: Display name.
        value: The figure, in ``unit``.
        unit: Unit of the value, such as ``members`` or ``%``.
        feature: The feature it describes; None for the whole community.
        tags: Labels that the filters of applications use.
    """

    metric: Name
    name: Name
    value: Value
    unit: str | None = None
    feature: Feature | None = None
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The value of the dataset's key field."""
        return self.metric


class MostPresent(msgspec.Struct, frozen=True, kw_only=True):
    """How often a member was present in a feature.

    Args:
        id: ``feature/member``, the dataset's key.
        feature: The feature.
        member: Identifier of the member at the source.
        name: Display name of the member.
        count: Number of times the member was present.
        tags: Labels that the filters of applications use.
    """

    id: str
    feature: Feature
    member: Name
    name: Name
    count: Count
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The value of the dataset's key field."""
        return self.id


Item = HeroMetric | MostPresent

ITEM_TYPES: dict[DatasetName, type[HeroMetric] | type[MostPresent]] = {
    "hero-metrics": HeroMetric,
    "most-present": MostPresent,
}


class RankedMetric(HeroMetric, frozen=True, kw_only=True):
    """A key figure with its rank and its change since the previous snapshot.

    Args:
        rank: From 1, among the figures of the same unit; other units are not comparable.
        previous_value: Value in the previous snapshot; None if the figure is new or there is no previous snapshot.
        change: ``value - previous_value``; None as above, or if the unit changed.
        previous_rank: Rank in the previous snapshot; None as for ``change``.
    """

    rank: int
    previous_value: float | None = None
    change: float | None = None
    previous_rank: int | None = None


class RankedMember(MostPresent, frozen=True, kw_only=True):
    """A member with the rank in the feature and the change since the previous snapshot.

    Args:
        rank: From 1, within the feature.
        share: Fraction of the feature's total count, 0 to 1.
        previous_count: Count in the previous snapshot; None if the member is new or there is no previous snapshot.
        change: ``count - previous_count``; None as above.
        previous_rank: Rank in the previous snapshot; None as above.
    """

    rank: int
    share: float
    previous_count: int | None = None
    change: int | None = None
    previous_rank: int | None = None


class FeatureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a feature, summarised.

    Args:
        feature: The feature.
        members: Number of members.
        total: Sum of their counts.
        change: ``total`` minus that of the previous snapshot; None if the feature is new or there is no such snapshot.
        new_members: Number of members that the previous snapshot did not have; None as above.
        gone_members: Number of members that only the previous snapshot had; None as above.
        top_member: The first of the ranking.
    """

    feature: str
    members: int
    total: int
    change: int | None
    new_members: int | None
    gone_members: int | None
    top_member: RankedMember


class UnitTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of the key figures of one unit; figures of different units cannot be added.

    Args:
        unit: The unit.
        metrics: Number of figures.
        value: Their sum.
        change: ``value`` minus that of the previous snapshot; None if the unit is new or there is no such snapshot.
    """

    unit: str | None
    metrics: int
    value: float
    change: float | None


class MemberTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The sum over all members shown.

    Args:
        members: Number of entries, one per member and feature.
        count: Sum of their counts.
        change: ``count`` minus that of the previous snapshot; None if that was empty or there is none.
    """

    members: int
    count: int
    change: int | None
