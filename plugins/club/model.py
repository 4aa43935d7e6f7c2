"""What the community's figures are, as fetched and as ranked."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

DatasetName = Literal["hero-metrics", "most-present"]

INT64_MAX = 2**63 - 1
# Far from where sums and differences of floats become infinite, which JSON cannot say.
VALUE_MAX = 1e300

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# Stands in URLs and in names of files.
Feature = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\Z", max_length=64)]
Value = Annotated[float, msgspec.Meta(ge=-VALUE_MAX, le=VALUE_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]


class HeroMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A key figure of the community.

    Args:
        metric: Identifies it.
        name: For people.
        value: The figure.
        unit: What it counts, such as ``members`` or ``%``.
        feature: The feature it is about; None for the whole community.
        tags: For filters.
    """

    metric: Name
    name: Name
    value: Value
    unit: str | None = None
    feature: Feature | None = None
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What identifies it."""
        return self.metric


class MostPresent(msgspec.Struct, frozen=True, kw_only=True):
    """How often a member was present in a feature.

    Args:
        id: ``feature/member``; identifies it.
        feature: Where.
        member: Who, as the source identifies them.
        name: For people.
        count: How often.
        tags: For filters.
    """

    id: str
    feature: Feature
    member: Name
    name: Name
    count: Count
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What identifies it."""
        return self.id


Item = HeroMetric | MostPresent

ITEM_KINDS: dict[DatasetName, type[HeroMetric] | type[MostPresent]] = {
    "hero-metrics": HeroMetric,
    "most-present": MostPresent,
}


class RankedMetric(HeroMetric, frozen=True, kw_only=True):
    """A key figure beside the others and beside what it was.

    Args:
        rank: From 1, among the figures of its unit: others cannot be compared.
        previous_value: In the previous snapshot; None if it is new, or there is none.
        change: From then to now.
        previous_rank: Its rank then.
    """

    rank: int
    previous_value: float | None = None
    change: float | None = None
    previous_rank: int | None = None


class RankedMember(MostPresent, frozen=True, kw_only=True):
    """A member beside the others of the feature, and beside what was.

    Args:
        rank: From 1, within the feature.
        share: Part of the feature's total, 0 to 1.
        previous_count: In the previous snapshot; None if the member is new, or there is none.
        change: From then to now.
        previous_rank: Rank then.
    """

    rank: int
    share: float
    previous_count: int | None = None
    change: int | None = None
    previous_rank: int | None = None


class FeatureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A feature in a line.

    Args:
        feature: Which.
        members: How many there are.
        total: The sum of their counts.
        change: Of the total against the previous snapshot; None if the feature is new, or there is none.
        new_members: How many were not in the previous snapshot; None as above.
        gone_members: How many were, and are no more; None as above.
        top_member: The first of the ranking.
    """

    feature: str
    members: int
    total: int
    change: int | None
    new_members: int | None
    gone_members: int | None
    top_member: RankedMember
