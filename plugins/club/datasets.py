"""The datasets of the community's figures, and what their routes show of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kernel import Dataset
from kernel.datasets import Derivation, Derived
from plugins.club.model import FeatureSummary, HeroMetric, MostPresent, RankedMember, RankedMetric
from plugins.club.ranking import rank_members, rank_metrics, summarize

HERO_METRICS = Dataset(
    name="hero-metrics", item=HeroMetric, key="metric", order=("name",), filter_keys=("hero_metrics", "metric")
)
MOST_PRESENT = Dataset(
    name="most-present",
    item=MostPresent,
    key="id",
    order=("feature", "-count", "name"),
    filter_keys=("most_present", "member"),
    file="{feature}-most-present.json",
)
DATASETS = (HERO_METRICS, MOST_PRESENT)


class UnitTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of the key figures of one unit: others cannot be added.

    Args:
        unit: Which.
        metrics: How many there are.
        value: Their sum.
        change: Against the previous snapshot; None if the unit is new, or there is none.
    """

    unit: str | None
    metrics: int
    value: float
    change: float | None


class MemberTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The sum over members.

    Args:
        members: How many there are.
        count: The sum of their counts.
        change: Against the previous snapshot; None if there was nothing.
    """

    members: int
    count: int
    change: int | None


def _metrics(items: Sequence[HeroMetric], previous: Sequence[HeroMetric]) -> Derived:
    ranked = rank_metrics(items, previous)
    return Derived(ranked, {"totals": _unit_totals(ranked, previous)})


def _members(items: Sequence[MostPresent], previous: Sequence[MostPresent]) -> Derived:
    return Derived(rank_members(items, previous), {"totals": _member_total(items, previous)})


def _features(items: Sequence[MostPresent], previous: Sequence[MostPresent]) -> Derived:
    return Derived(summarize(items, previous), {"totals": _member_total(items, previous)})


METRICS_SHOWN = Derivation(item=RankedMetric, derive=_metrics)
MEMBERS_SHOWN = Derivation(item=RankedMember, derive=_members)
FEATURES_SHOWN = Derivation(item=FeatureSummary, derive=_features)


def _unit_totals(items: Sequence[HeroMetric], before: Sequence[HeroMetric]) -> list[UnitTotal]:
    totals: list[UnitTotal] = []
    for unit in dict.fromkeys(item.unit for item in items):
        now = [item.value for item in items if item.unit == unit]
        then = [item.value for item in before if item.unit == unit]
        change = sum(now) - sum(then) if then else None
        totals.append(UnitTotal(unit=unit, metrics=len(now), value=sum(now), change=change))
    return totals


def _member_total(items: Sequence[MostPresent], before: Sequence[MostPresent]) -> MemberTotal:
    count = sum(item.count for item in items)
    change = count - sum(item.count for item in before) if before else None
    return MemberTotal(members=len(items), count=count, change=change)
