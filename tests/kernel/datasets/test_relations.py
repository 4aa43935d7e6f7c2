"""Relations between datasets are checked when a service starts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kernel.contracts import Dataset
from kernel.testing import Client
from tests.kernel.datasets.conftest import MEMBERS, MakeClient
from tests.kernel.datasets.tagged import (
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
        ({"tags": "members"}, "relation 'tags': keys of 'members' are not of type str"),
    ],
)
def test_a_wrong_relation_quarantines_its_plugin(
    relations: Mapping[str, str], reason: str, boot: Boot, make_plugin: MakePlugin
) -> None:
    wrong = Dataset(name="things", item=Thing, key="slug", relations=relations)
    client: Client = boot(
        make_plugin("tagged", register_datasets=lambda services: [wrong]),
        make_plugin("other", register_datasets=lambda services: [TAGS, MEMBERS]),
    )

    states = {name: status.state for name, status in client.service.registry.statuses.items()}
    assert states == {"tagged": "quarantined", "other": "loaded"}
    assert reason in str(client.service.registry.statuses["tagged"].reason)


def test_a_relation_to_a_quarantined_dataset_quarantines_its_plugin(boot: Boot, make_plugin: MakePlugin) -> None:
    client: Client = boot(
        make_plugin("tagged", register_datasets=lambda services: [THINGS]),
        make_plugin("other", register_datasets=lambda services: [TAGS, Dataset(name="x", item=Tag, key="id")]),
    )

    assert "there is no dataset 'tags'" in str(client.service.registry.statuses["tagged"].reason)


def test_a_relation_may_refer_to_a_dataset_of_another_plugin(make_client: MakeClient, make_plugin: MakePlugin) -> None:
    other = make_plugin("other", register_datasets=lambda services: [TAGS])
    tagged = make_client(
        datasets=(THINGS,), routes=lambda services: [services.dataset_route(PATH, THINGS)], others=[other]
    )
    tagged.publish(Tag("a", "A"), dataset=TAGS)
    tagged.publish(Thing("x", tags=("a",)), dataset=THINGS)

    assert tagged.data(f"{PATH}?include=tags")[0]["tags"] == [A]
