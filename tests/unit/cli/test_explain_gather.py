"""The pod's container group, found by what the node wrote on both; with and without our extensions."""

import msgspec

from kci.cli.explanation import gather
from kci.client import errors
from kci.contract import capabilities, groups, starts
from kci.kube import models

START = starts.GroupStart(container_group_id="g", stored_at_ms=5)


class Service:
    def __init__(self, *listed, offers=(), start=START):
        self.listed = listed
        self.offers = offers
        self.start = start
        self.asked = []

    async def list_container_groups(self, *, ids=()):
        self.asked.append(ids)
        return [one for one in self.listed if not ids or one.container_group_id in ids]

    async def describe_capabilities(self):
        return capabilities.Capabilities(frozenset(self.offers))

    async def describe_container_group_start(self, group_id):
        assert capabilities.GROUP_START in self.offers
        if isinstance(self.start, Exception):
            raise self.start
        return self.start


def group(group_id="g", pod="web", uid="u"):
    named = {"namespace": "shop", "pod-name": pod, "pod-uuid": uid}
    return groups.ContainerGroup(
        container_group_id=group_id,
        labels=tuple(groups.LabelValue(key=key, value=value) for key, value in named.items()),
    )


def pod(**annotations):
    return msgspec.convert(
        {"metadata": {"name": "web", "namespace": "shop", "uid": "u", "annotations": annotations}}, models.Pod
    )


async def test_the_group_is_found_by_its_labels_and_is_not_another_pods_of_that_name():
    service = Service(group("old", uid="former"), group("other", pod="db"), group())
    found, start = await gather.of_service(service, pod())
    assert (found.container_group_id, start) == ("g", None)
    assert await gather.of_service(Service(group(uid="former")), pod()) == (None, None)


async def test_a_pod_that_names_its_group_is_asked_for_alone():
    service = Service(group("other", pod="db"), group())
    found, _ = await gather.of_service(service, pod(**{gather.INSTANCE_ID: "g"}))
    assert found.container_group_id == "g"
    assert service.asked == [("g",)]


async def test_the_start_is_asked_where_the_service_tells_it():
    ours = Service(group(), offers=(capabilities.GROUP_START,))
    assert await gather.of_service(ours, pod()) == (group(), START)
    # Without a label for the UID, as on the real cloud.
    assert await gather.of_service(Service(group(uid="")), pod()) == (group(uid=""), None)


async def test_a_group_that_ends_meanwhile_is_none():
    ours = Service(group(), offers=(capabilities.GROUP_START,), start=errors.NotFoundError("gone"))
    assert await gather.of_service(ours, pod()) == (None, None)
