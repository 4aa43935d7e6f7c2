"""The datasets of the plugin: features, gateways, tiers and tags."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kernel import Dataset
from plugins.trace.models import Feature, Gateway, Tag, Tier

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

# Holds any number of columns, under configured names.
_PROPERTIES = "properties"


def mappable_fields(dataset: Dataset) -> Sequence[str]:
    """Return the fields of a dataset's items that a column of Notion can fill."""
    return [field.name for field in msgspec.structs.fields(dataset.item) if field.name != _PROPERTIES]
