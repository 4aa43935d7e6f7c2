"""Relations between datasets are checked when a service starts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kernel.contracts import Dataset
from kernel.testing import Client
from tests.kernel.datasets.conftest import MEMBERS, OpenShop
from tests.kernel.datasets.lab import (
    PATH,
    TAGS,
    THINGS,
    A,
    Tag,
    Thing,
)
from tests.kernel.fakes import Boot, MakePlugin


@pytest.mark.parametrize(
    ("relations", "reason"),
    [
        ({"colour": "tags"}, "Thing has no field colour"),
        ({"tags": "tag"}, "relation 'tags': there is no dataset 'tag'"),
        ({"level": "tags"}, "relation 'level': expected str, str | None or tuple of str, not int"),
        ({"tags": "members"}, "relation 'tags': keys of 'members' are no texts"),
    ],
)
def test_a_wrong_relation_quarantines_its_plugin(
    relations: Mapping[str, str], reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    wrong = Dataset(name="things", item=Thing, key="slug", relations=relations)
    client: Client = boot(
        make_plugin("lab", register_datasets=lambda services: [wrong]),
        make_plugin("other", register_datasets=lambda services: [TAGS, MEMBERS]),
    )

    states = {name: status.state for name, status in client.service.registry.statuses.items()}
    assert states == {"lab": "quarantined", "other": "loaded"}
    assert reason in str(client.service.registry.statuses["lab"].reason)


def test_who_is_left_out_takes_along_whom_they_are_related_to(boot: Boot, make_plugin: MakePlugin) -> None:
    client: Client = boot(
        make_plugin("lab", register_datasets=lambda services: [THINGS]),
        make_plugin("other", register_datasets=lambda services: [TAGS, Dataset(name="x", item=Tag, key="id")]),
    )

    assert "there is no dataset 'tags'" in str(client.service.registry.statuses["lab"].reason)


def test_a_relation_to_a_dataset_of_another_plugin_is_included(open_shop: OpenShop, make_plugin: MakePlugin) -> None:
    other = make_plugin("other", register_datasets=lambda services: [TAGS])
    lab = open_shop(datasets=(THINGS,), routes=lambda services: [services.dataset_route(PATH, THINGS)], others=[other])
    lab.publish(Tag("a", "A"), dataset=TAGS)
    lab.publish(Thing("x", tags=("a",)), dataset=THINGS)

    assert lab.data(f"{PATH}?include=tags")[0]["tags"] == [A]
