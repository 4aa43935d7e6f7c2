"""The datasets of community figures, and what their routes derive from them."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import Dataset
from kernel.datasets import Derivation, Derived
from plugins.club.models import FeatureSummary, HeroMetric, MostPresent, RankedMember, RankedMetric
from plugins.club.ranking import rank_members, rank_metrics, summarize_features, total_members, total_units

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


def derive_ranked_metrics(items: Sequence[HeroMetric], previous: Sequence[HeroMetric]) -> Derived:
    """Rank the key figures; total them by unit."""
    ranked = rank_metrics(items, previous)
    return Derived(ranked, {"totals": total_units(ranked, previous)})


def derive_ranked_members(items: Sequence[MostPresent], previous: Sequence[MostPresent]) -> Derived:
    """Rank the members of each feature; total them."""
    return Derived(rank_members(items, previous), {"totals": total_members(items, previous)})


def derive_feature_summaries(items: Sequence[MostPresent], previous: Sequence[MostPresent]) -> Derived:
    """Summarise each feature; total all members."""
    return Derived(summarize_features(items, previous), {"totals": total_members(items, previous)})


RANKED_METRICS = Derivation(item=RankedMetric, derive=derive_ranked_metrics)
RANKED_MEMBERS = Derivation(item=RankedMember, derive=derive_ranked_members)
FEATURE_SUMMARIES = Derivation(item=FeatureSummary, derive=derive_feature_summaries)
