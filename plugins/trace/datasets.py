"""The datasets of specifications."""

from __future__ import annotations

from kernel import Dataset
from plugins.trace.model import Feature, Gateway, Tag, Tier

FEATURES = Dataset(
    name="features",
    item=Feature,
    key="slug",
    order=("area", "name"),
    filter_keys=("feature",),
    relations={"tier": "tiers", "gateways": "gateways", "tags": "tags"},
)
GATEWAYS = Dataset(
    name="gateways", item=Gateway, key="slug", order=("name",), filter_keys=("gateway",), relations={"tags": "tags"}
)
TIERS = Dataset(
    name="tiers", item=Tier, key="slug", order=("level",), filter_keys=("tier",), relations={"tags": "tags"}
)
TAGS = Dataset(name="tags", item=Tag, key="slug", order=("name",), filter_keys=("tag",))
DATASETS = (FEATURES, GATEWAYS, TIERS, TAGS)
