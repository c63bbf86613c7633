"""What KCI says of usage, as the virtual node is told it; and a cloud that says nothing of it."""

import asyncio

import pytest

from kci.client import errors
from kci.contract import capabilities, groups, packages, usage
from kci.kit import secret, tasks
from kci.provider import cloud
from kci.provider.plan import group
from kci.vnode import leadership, provider


class Kci:
    """A service with these capabilities; `answer` is what it says, or an error."""

    def __init__(self, *names, answer=()):
        self.names, self.answer, self.asked = frozenset(names), answer, []

    async def describe_capabilities(self):
        return capabilities.Capabilities(self.names)

    async def describe_kci_packages(self):
        return packages.STANDARD

    async def describe_container_group_usage(self, *, cluster_id, node_name):
        self.asked.append((cluster_id, node_name))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def read(kci):
    async def find_kubeconfig():
        return secret.Secret("k")

    defaults = group.Defaults(cluster_id="c1", node_name="vn")
    made = cloud.KingsoftCloud(kci, defaults, right=leadership.Always(), find_kubeconfig=find_kubeconfig)
    async with asyncio.timeout(10), tasks.background("provider", made.run()):
        return await made.read_usage()


def told(**labels):
    used = usage.Usage(time_ns=9, cpu_core_ns=8, working_set_bytes=7, memory_limit_bytes=6, processes=5)
    return usage.ContainerGroupUsage(
        container_group_id="g1",
        labels=tuple(groups.LabelValue(key=key, value=value) for key, value in labels.items()),
        started_at_ns=3,
        usage=used,
        traffic=usage.Traffic(received_bytes=2),
        containers=(usage.ContainerUsage(name="c", started_at_ns=4, usage=used),),
    )


async def test_the_real_cloud_is_not_asked_and_cannot_tell():
    kci = Kci()
    assert await read(kci) is None
    assert kci.asked == []


async def test_usage_is_asked_of_this_node_and_told_by_pod():
    kci = Kci(capabilities.GROUP_USAGE, answer=(told(**{"pod-uuid": "u"}), told()))
    (pod,) = await read(kci)
    assert kci.asked == [("c1", "vn")]
    used = provider.Usage(time_ns=9, cpu_core_ns=8, working_set_bytes=7, memory_limit_bytes=6, processes=5)
    assert pod == provider.PodUsage(
        pod_uid="u",
        started_at_ns=3,
        usage=used,
        traffic=provider.Traffic(received_bytes=2),
        containers=(provider.ContainerUsage(name="c", started_at_ns=4, usage=used),),
    )


async def test_a_service_that_does_not_answer_is_no_empty_answer():
    kci = Kci(capabilities.GROUP_USAGE, answer=errors.UnreachableError("cannot reach it"))
    with pytest.raises(provider.ProviderError, match="cannot reach it"):
        await read(kci)
