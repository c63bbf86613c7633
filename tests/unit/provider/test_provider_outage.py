"""KCI is away for ten minutes, or lets nobody in: few calls meanwhile, everything done soon after, and no
rush (R11).

The node is Ready all the time, and its heartbeat comes as if nothing were.
"""

import asyncio
import collections
import datetime
import itertools

import pytest
from fakes import kube_api, virtual_time, vnode_world

from kci.client import errors
from kci.contract import capabilities, groups, packages
from kci.kit import secret, tasks
from kci.kube import resources
from kci.provider import circuit, cloud
from kci.provider.plan import group
from kci.vnode import leadership, lease, node, node_controller, pod_controller

OUTAGE_S, WARM_UP_S = 600.0, 60.0
PODS = 60
# A Lease is renewed each 10 s; a node whose Lease is 40 s old is taken for dead.
HEARTBEAT_S = 15.0


class Kci:
    """A service with a change stream, which can be away; every call that reaches the wire is noted."""

    def __init__(self, now_s):
        self._now_s, self.away = now_s, None
        self.calls = []
        self._groups, self._news, self._number = {}, asyncio.Event(), 0

    async def _call(self, name):
        self.calls.append((self._now_s(), name))
        await asyncio.sleep(0.02)
        match self.away:
            case "refused":
                raise errors.UnreachableError("cannot connect", reached=False)
            case "silent":
                await asyncio.sleep(15)
                raise errors.UnreachableError("no answer in time")
            case "throttled":
                raise errors.TryLaterError("slow down", retry_after_s=20.0)
            case "keys refused":
                raise errors.RefusedError(f"cannot {name}: no such key", code="SignatureDoesNotMatch")
            case "no keys":
                raise errors.MissingCredentialsError("cannot sign calls to KCI: there are no keys")
            case "broken":
                raise errors.UnreachableError("it failed", code="InternalError")
            case _:
                return

    def go_away(self, how):
        self.away = how
        self._tell()

    def uids(self):
        return sorted(found.label(groups.POD_UUID) for found in self._groups.values())

    async def describe_kci_packages(self):
        return packages.STANDARD

    async def describe_capabilities(self):
        await self._call("capabilities")
        return capabilities.Capabilities(frozenset(capabilities.ALL))

    async def create_container_group(self, request):
        await self._call("create")
        self._number += 1
        labels = tuple(groups.LabelValue(key=label.key, value=label.value) for label in request.label)
        made = groups.ContainerGroup(container_group_id=f"g{self._number}", status="Running", labels=labels)
        self._groups[made.container_group_id] = made
        self._tell()
        return made.container_group_id

    async def delete_container_group(self, group_id, *, fence=None):
        await self._call("delete")
        self._groups.pop(group_id, None)
        self._tell()

    async def list_container_groups(self):
        await self._call("list")
        return list(self._groups.values())

    async def watch_container_groups(self, *, cluster_id="", node_name=""):
        await self._call("watch")
        told = {}
        while True:
            for name, found in self._groups.items():
                if name not in told:
                    yield groups.GroupChange(group_id=name, group=found)
            for name in told.keys() - self._groups.keys():
                yield groups.GroupChange(group_id=name, absent=True)
            if not told:
                yield groups.GroupChange(synced=True)
            told = dict(self._groups) or {"": None}
            await self._news.wait()
            if self.away:
                raise errors.UnreachableError("the stream broke")

    def _tell(self):
        self._news.set()
        self._news = asyncio.Event()


class NodeApi(kube_api.FakeApi):
    """The API server that the Lease and the node object are kept at, and when each was written."""

    def __init__(self, now_s):
        super().__init__()
        self._now_s, self.written_s = now_s, collections.defaultdict(list)

    async def request(self, method, path):
        return b'{"gitVersion": "v1.36.3"}'

    async def create(self, resource, body, *, namespace=""):
        await asyncio.sleep(0.01)
        self.written_s[resource.plural].append(self._now_s())
        return await super().create(resource, body, namespace=namespace)

    async def patch(self, resource, name, patch, *, namespace="", **_):
        await asyncio.sleep(0.01)
        self.written_s[resource.plural].append(self._now_s())
        return await super().patch(resource, name, patch, namespace=namespace)

    def not_ready(self):
        """Each state that the node object was ever in, and that was not Ready."""
        return [
            item["status"]["conditions"]
            for _, plural, _, item in self._history
            if plural == resources.NODES.plural
            and ("Ready", "True")
            not in {(one["type"], one["status"]) for one in item["status"]["conditions"]}
        ]


class SteadyClock:
    """Goes with the loop's time."""

    def __init__(self, now_s):
        self._now_s = now_s

    def now(self):
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=self._now_s())


class World:
    """A whole virtual node: the heartbeat, the node object and the pods of one loop, with one cloud."""

    def __init__(self):
        self.loop = virtual_time.VirtualLoop()
        self.cluster = vnode_world.Cluster()
        self.kci = Kci(self.loop.time)

        async def find_kubeconfig():
            return secret.Secret("k")

        self.cloud = cloud.KingsoftCloud(
            self.kci,
            group.Defaults(cluster_id="c", node_name="vn", subnet_id="s", security_group_ids=("g",)),
            right=leadership.Always(),
            find_kubeconfig=find_kubeconfig,
        )
        self.node_api = NodeApi(self.loop.time)
        self.lease_keeper = lease.LeaseKeeper(
            self.node_api,
            node_name="vn",
            identity="only",
            clock=SteadyClock(self.loop.time),
            now_s=self.loop.time,
        )
        self.node_controller = node_controller.NodeController(
            self.node_api,
            node.NodeSettings(name="vn", address="10.0.0.9", kubelet_port=10250, version="0.1.0"),
            right=leadership.Always(),
            on_registered=self.lease_keeper.hold_for,
            on_trouble=lambda *_: None,
        )
        # The double of the cluster asks what runs before it lets a pod be failed or removed.
        self.cluster.cloud = self
        self.controller = pod_controller.PodController(
            pod_provider=self.cloud, api=self.cluster, events=self.cluster, clock=vnode_world.FixedClock()
        )
        self.controller.watch(self.cluster.copy, self.cluster.synced)

    def exists(self, uid):
        return uid in self.kci.uids()

    runs = exists

    def run(self, script):
        async def main():
            async with (
                tasks.background("lease", self.lease_keeper.run()),
                tasks.background("node", self.node_controller.run()),
                tasks.background("cloud", self.cloud.run()),
                tasks.background("controller", self.controller.run()),
            ):
                self.cluster.start(self.controller)
                await asyncio.sleep(5)
                await script(self)

        try:
            self.loop.run_until_complete(main())
        finally:
            self.loop.close()
        assert self.cluster.violations == []


def bind(world, prefix):
    names = [f"{prefix}{number:02}" for number in range(PODS)]
    for name in names:
        world.cluster.bind(name, name=name)
    return names


def peak(calls):
    return max(collections.Counter(int(at_s) for at_s, _ in calls).values())


def gaps(moments_s, *, until_s):
    return [later - before for before, later in itertools.pairwise([*moments_s, until_s])]


def counted(calls, since_s, *names):
    return [(at_s, name) for at_s, name in calls if at_s >= since_s and name in names]


# What all pods say that wait, whether they were told so or their calls were not sent.
TOLD = {"keys refused": {"SignatureDoesNotMatch"}, "no keys": {"MissingCredentials"}}


@pytest.mark.requirement("R11")
@pytest.mark.parametrize("how", ["refused", "silent", "throttled", "broken", "keys refused", "no keys"])
def test_ten_minutes_without_the_service(how):
    async def script(world):
        kci, now_s = world.kci, world.loop.time
        old = bind(world, "old")
        await asyncio.sleep(20)
        normal_peak = peak(counted(kci.calls, 0, "create", "delete"))
        assert kci.uids() == old

        kci.go_away(how)
        began_s = now_s()
        new = bind(world, "new")
        await asyncio.sleep(1)
        for name in old[: PODS // 3]:
            world.cluster.ask_deletion(name)
        await asyncio.sleep(OUTAGE_S)

        meanwhile = [at_s for at_s, _ in kci.calls if at_s > began_s + WARM_UP_S]
        assert len(meanwhile) <= OUTAGE_S - WARM_UP_S
        assert len(meanwhile) >= 10, "nobody looked whether it is back"
        seconds = collections.Counter(int(at_s) for at_s in meanwhile)
        assert max(seconds.values()) == 1
        assert world.cluster.pods["new00"].status.phase == "Pending"
        assert how not in TOLD or {world.cluster.pods[name].status.reason for name in new} == TOLD[how]

        kci.away, back_s = None, now_s()
        await asyncio.sleep(60)
        assert kci.uids() == sorted([*new, *old[PODS // 3 :]])
        assert sorted(world.cluster.pods) == kci.uids()
        sent = counted(kci.calls, back_s, "create", "delete")
        assert len(sent) <= 1.5 * (PODS + PODS // 3)
        assert peak(sent) <= 2 * normal_peak

        written_s = world.node_api.written_s
        assert max(gaps(written_s[resources.LEASES.plural], until_s=now_s())) <= HEARTBEAT_S
        assert (
            max(gaps(written_s[resources.NODES.plural], until_s=now_s()))
            <= node_controller.STATUS_INTERVAL_S + 1
        )
        assert world.node_api.not_ready() == []

    World().run(script)


def test_a_circuit_lets_one_probe_through_each_interval_and_all_after_an_answer():
    made, now_s = circuit.Circuit(), 100.0
    for _ in range(circuit.FAILURES_TO_OPEN):
        assert made.ask(now_s) == 0
        made.failed(now_s)
    let_through = []
    for at_ms in range(100_000, 200_000, 50):
        if made.ask(at_ms / 1000) == 0:
            let_through.append(at_ms / 1000)
            made.failed(at_ms / 1000)
    gaps = [later - before for before, later in itertools.pairwise(let_through)]
    assert min(gaps) >= 1.0
    made.answered()
    assert made.ask(now_s) == made.ask(now_s) == 0


def test_a_circuit_waits_as_long_as_the_service_asks():
    made = circuit.Circuit()
    for _ in range(circuit.FAILURES_TO_OPEN):
        made.failed(100.0, retry_after_s=20.0)
    assert made.ask(119.0) > 0
    assert made.ask(120.5) == 0
