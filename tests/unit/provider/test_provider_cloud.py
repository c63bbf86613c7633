"""What KCI says, as the virtual node is told it: changes, logs, errors, and the kubeconfig for instances."""

import asyncio
import contextlib

import msgspec
import pytest
from fakes import kubelet_peers, virtual_time, vnode_world

from kci.client import errors
from kci.contract import capabilities, groups, packages
from kci.kit import errors as kit_errors
from kci.kit import secret, tasks
from kci.kube import config as configs
from kci.kube import models
from kci.provider import cloud, faults, kubeconfig, streams, watcher
from kci.provider.plan import group
from kci.vnode import leadership, provider

UID = "6f0c1a2b-0000-4000-8000-123456789abc"


def made(name, *, node="vn", cluster="c1", status="Running"):
    labels = {"cluster-id": cluster, "node-name": node, "pod-uuid": UID}
    return groups.ContainerGroup(
        container_group_id=name,
        status=status,
        labels=tuple(groups.LabelValue(key=key, value=value) for key, value in labels.items()),
    )


class Kci:
    """A scripted KCI: lists and watches in order, each a value or an error."""

    def __init__(self, *, lists=(), watches=(), log=()):
        self.lists, self.watches, self.log = list(lists), list(watches), list(log)
        self.asked_at_s = []

    async def list_container_groups(self):
        self.asked_at_s.append(asyncio.get_running_loop().time())
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def watch_container_groups(self, *, cluster_id, node_name):
        for line in self.watches.pop(0):
            yield line
        raise errors.UnreachableError("the stream ended")

    async def describe_container_log(self, group_id, container, tail):
        answer = self.log.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stream_container_log(self, group_id, container, options=None):
        for chunk in self.log:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


def instances_of(change):
    return [instance.id for instance in change.instances]


@pytest.fixture
def jump():
    """Run a coroutine on a loop whose time jumps."""
    loop = virtual_time.VirtualLoop()
    yield loop.run_until_complete
    loop.close()


async def take(changes, count):
    async with contextlib.aclosing(changes) as source:
        return [await anext(source) for _ in range(count)]


def test_the_stream_tells_a_whole_list_first_and_again_after_each_break(jump):
    synced = groups.GroupChange(synced=True)
    one, two = (groups.GroupChange(group_id=name, group=made(name)) for name in ("g1", "g2"))
    kci = Kci(
        watches=[
            [one, synced, two, groups.GroupChange(group_id="g1", absent=True)],
            # Broken before all was told: says nothing about g2.
            [],
            [two, synced],
        ]
    )

    async def main():
        watched = watcher.Watcher(kci, cluster_id="c1", node_name="vn")
        return await take(watched.changes(by_stream=True), 4)

    first, seen, gone, again = jump(main())
    assert instances_of(first) == ["g1"]
    assert seen.instance.id == "g2"
    assert gone == provider.Gone("g1", UID)
    assert instances_of(again) == ["g2"]


def test_polls_skip_failures_and_others_groups(jump):
    kci = Kci(
        lists=[
            [made("g1"), made("x", node="other"), made("y", cluster="other")],
            errors.UnreachableError("cannot list"),
            [],
        ]
    )

    async def main():
        watched = watcher.Watcher(kci, cluster_id="c1", node_name="vn")
        return await take(watched.changes(by_stream=False), 2)

    first, second = jump(main())
    assert (instances_of(first), instances_of(second)) == (["g1"], [])


def test_polls_are_quick_after_a_change_was_asked_for_and_slow_otherwise(jump):
    kci = Kci(lists=[[]])

    async def main():
        watched = watcher.Watcher(kci, cluster_id="c1", node_name="vn")
        await take(watched.changes(by_stream=False), 3)
        steady = [later - before for before, later in zip(kci.asked_at_s, kci.asked_at_s[1:], strict=False)]
        kci.asked_at_s.clear()
        watched.expect_change()
        await take(watched.changes(by_stream=False), 3)
        young = [later - before for before, later in zip(kci.asked_at_s, kci.asked_at_s[1:], strict=False)]
        return steady, young

    steady, young = jump(main())
    assert all(15 <= gap <= 30 for gap in steady)
    assert all(gap <= 5 for gap in young)


def test_a_change_asked_for_in_a_steady_pause_is_looked_for_soon(jump):
    kci = Kci(lists=[[]])

    async def main():
        watched = watcher.Watcher(kci, cluster_id="c1", node_name="vn")
        async with contextlib.aclosing(watched.changes(by_stream=False)) as changes:
            await anext(changes)
            # The steady pause is 15 s at least.
            asyncio.get_running_loop().call_later(5, watched.expect_change)
            await anext(changes)

    jump(main())
    first_s, second_s = kci.asked_at_s
    assert 5 <= second_s - first_s <= 5 + watcher.YOUNG_POLL_S[1]


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ([], ["a"], ["a"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b", "c"], ["b", "c", "d", "e"], ["d", "e"]),
        (["a", "a", "a"], ["a", "a", "a", "a"], ["a"]),
        (["x", "y"], ["p", "q"], ["p", "q"]),
        (["a", "b"], [], []),
    ],
)
def test_following_by_asking_again_shows_each_line_once(before, after, new):
    # With equal lines nobody can tell how many are new: the fewest are shown.
    found = list(streams.new_lines(before, after))
    assert found == new or (len(set(before)) == 1 and len(found) <= len(new))


def test_a_log_is_followed_through_trouble_until_the_container_is_gone(jump):
    kci = Kci(log=["a\nb\n", errors.UnreachableError("x"), "b\nc\n", errors.NotFoundError("gone")])
    assert jump(followed(kci, lambda: False)) == b"a\nb\nc\n"


async def followed(kci, has_ended):
    options = models.PodLogOptions(follow=True)
    chunks = await streams.open_log_tail(kci, "g", "c", options, has_ended=has_ended)
    return b"".join([chunk async for chunk in chunks])


def test_a_log_is_followed_to_the_last_line_of_a_container_that_ends(jump):
    ends = iter((False, False, True))
    kci = Kci(log=["a\n", "a\n", "a\nb\n", "a\nb\nlast\n", errors.InvalidError("nobody asks any more")])
    assert jump(followed(kci, lambda: next(ends))) == b"a\nb\nlast\n"


def test_only_a_newline_ends_a_line_of_a_log(jump):
    odd = "10%\r20%\r\n\n\u2028\x0c\x85end\n"
    kci = Kci(log=["", odd, odd + "next\n"])
    ends = iter((False, True))
    assert jump(followed(kci, lambda: next(ends))) == (odd + "next\n").encode()


@pytest.mark.parametrize("asked", [{"previous": True}, {"timestamps": True}, {"since_seconds": 5}])
async def test_what_kcis_log_call_cannot_do_is_refused(asked):
    with pytest.raises(provider.RefusedError, match="cannot show"):
        await streams.open_log_tail(Kci(), "g", "c", models.PodLogOptions(**asked), has_ended=lambda: False)


async def test_a_log_stream_that_nobody_reads_is_closed_at_once():
    class Followed(Kci):
        is_closed = False

        async def stream_container_log(self, group_id, container, options=None):
            try:
                yield b""
                await asyncio.Event().wait()
            finally:
                self.is_closed = True

    kci = Followed()
    chunks = await streams.open_log_stream(kci, "g", "c", models.PodLogOptions(follow=True))
    await chunks.aclose()
    assert kci.is_closed


def test_a_create_that_has_to_wait_says_for_what(jump):
    class Refusing(Kci):
        async def describe_kci_packages(self):
            return packages.STANDARD

        async def describe_capabilities(self):
            raise errors.RefusedError("cannot DescribeCapabilities: no such key", code="InvalidAccessKey")

    async def find_kubeconfig():
        return secret.Secret("k")

    async def main():
        made = cloud.KingsoftCloud(
            Refusing(),
            group.Defaults(cluster_id="c1", node_name="vn"),
            right=leadership.Always(),
            find_kubeconfig=find_kubeconfig,
        )
        async with tasks.background("provider", made.run()):
            await made.create_instance(vnode_world.pod(UID))

    with pytest.raises(provider.TryLaterError, match=r"yet: .*\(InvalidAccessKey\): correct its keys"):
        jump(main())


async def test_a_slip_in_an_annotation_is_told_with_what_is_missing_for_it():
    async def find_kubeconfig():
        return secret.Secret("k")

    defaults = group.Defaults(cluster_id="c1", node_name="vn", security_group_ids=("g",))
    made = cloud.KingsoftCloud(
        Kci(watches=[]), defaults, right=leadership.Always(), find_kubeconfig=find_kubeconfig
    )
    body = vnode_world.pod(UID)
    notes = {"k8s.ksyun.com/kci-subnet": "s-1"}
    slipped = msgspec.structs.replace(
        body, metadata=msgspec.structs.replace(body.metadata, annotations=notes)
    )
    (refusal,) = made.refusals(slipped)
    assert refusal.reason == "MissingSubnet"
    assert "is k8s.ksyun.com/kci-subnet-id meant?" in refusal.message


class Fenced(Kci):
    """A service that knows epochs."""

    def __init__(self, *, names=capabilities.ALL, refuses=False):
        super().__init__(watches=[])
        self._names, self._refuses, self.fences = names, refuses, []

    async def describe_kci_packages(self):
        return packages.STANDARD

    async def describe_capabilities(self):
        return capabilities.Capabilities(frozenset(self._names))

    async def create_container_group(self, request):
        return self._take(request.fence)

    async def delete_container_group(self, group_id, *, fence=None):
        self._take(fence)

    def _take(self, fence):
        if self._refuses:
            raise errors.ConflictError("a later epoch was seen", code="StaleEpoch")
        self.fences.append((fence.holder, fence.epoch) if fence is not None else None)
        return "g1"


class Right:
    """A right that ends when it is told to."""

    def __init__(self, epoch=7):
        self.epoch, self.was_refused = epoch, []

    def require(self):
        if self.epoch == 0:
            raise leadership.NotLeaderError("another copy may act")
        return self.epoch

    def refused(self, epoch):
        self.was_refused.append(epoch)


class Offering(Fenced):
    """A service that has other sizes than the documentation's."""

    def __init__(self, packages_offered):
        super().__init__()
        self._offered, self.created = packages_offered, []

    async def describe_kci_packages(self):
        if isinstance(self._offered, Exception):
            raise self._offered
        return packages.to_table(self._offered)

    async def create_container_group(self, request):
        self.created.append(request)
        return "g1"


async def create_on(kci, target, *, table=None):
    """What was asked for, and what the provider says of the pod before and after it knows the sizes."""

    async def find_kubeconfig():
        return secret.Secret("k")

    defaults = group.Defaults(
        cluster_id="c1", node_name="vn", subnet_id="s", security_group_ids=("g",), table=table
    )
    made = cloud.KingsoftCloud(kci, defaults, right=Right(), find_kubeconfig=find_kubeconfig)
    assert made.refusals(target) == ()
    async with tasks.background("provider", made.run()):
        try:
            await made.create_instance(target)
        except provider.RefusedError as error:
            return error.reason, [refusal.reason for refusal in made.refusals(target)]
    (request,) = kci.created
    return request.cpu, request.memory


async def test_the_services_own_sizes_count():
    odd = (packages.Package(3, (7,)),)
    assert await create_on(Offering(odd), vnode_world.pod(UID)) == (3, 7)
    silent = Offering(errors.InvalidError("no such action", code="InvalidAction"))
    assert await create_on(silent, vnode_world.pod(UID)) == (2, 4)
    small = packages.to_table([packages.Package(1, (1,))])
    assert await create_on(Offering(odd), vnode_world.pod(UID), table=small) == (1, 1)
    # Who has a table of its own need not ask.
    away = Offering(errors.UnreachableError("no answer in time"))
    assert await create_on(away, vnode_world.pod(UID), table=small) == (1, 1)


async def test_a_pod_for_which_the_service_has_no_size_is_refused_once_that_is_known():
    body = vnode_world.pod(UID)
    asking = models.Container(name="c", resources=models.ResourceRequirements(limits={"cpu": "4"}))
    target = msgspec.structs.replace(body, spec=msgspec.structs.replace(body.spec, containers=(asking,)))
    assert await create_on(Offering((packages.Package(3, (7,)),)), target) == ("TooLarge", ["TooLarge"])


async def write_both(kci, right):
    async def find_kubeconfig():
        return secret.Secret("k")

    defaults = group.Defaults(cluster_id="c1", node_name="vn", subnet_id="s", security_group_ids=("g",))
    made = cloud.KingsoftCloud(kci, defaults, right=right, find_kubeconfig=find_kubeconfig)
    outcomes = []
    async with tasks.background("provider", made.run()):
        for write in (made.create_instance(vnode_world.pod(UID)), made.remove_instance("g1")):
            try:
                await write
                outcomes.append("done")
            except leadership.NotLeaderError:
                outcomes.append("left to the leader")
    return outcomes


@pytest.mark.requirement("R26")
async def test_writes_name_the_epoch_to_a_service_that_understands_it():
    kci, plain = Fenced(), Fenced(names=(capabilities.LABEL_POD_UUID,))
    assert await write_both(kci, Right()) == await write_both(plain, Right()) == ["done", "done"]
    assert kci.fences == [("c1/vn", 7)] * 2
    assert plain.fences == [None] * 2


@pytest.mark.requirement("R26")
async def test_a_delete_waits_until_it_is_known_whether_the_service_understands_epochs():
    kci, kubeconfig_found = Fenced(), asyncio.Event()

    async def find_kubeconfig():
        await kubeconfig_found.wait()
        return secret.Secret("k")

    defaults = group.Defaults(cluster_id="c1", node_name="vn", subnet_id="s", security_group_ids=("g",))
    made = cloud.KingsoftCloud(kci, defaults, right=Right(), find_kubeconfig=find_kubeconfig)
    async with tasks.background("provider", made.run()), tasks.Tasks() as group_of_tasks:
        group_of_tasks.start("delete", made.remove_instance("g1"))
        await asyncio.sleep(0)
        assert kci.fences == []
        kubeconfig_found.set()
    assert kci.fences == [("c1/vn", 7)]


@pytest.mark.requirement("R26")
async def test_a_copy_without_the_lease_sends_no_write():
    kci = Fenced()
    assert await write_both(kci, Right(epoch=0)) == ["left to the leader"] * 2
    assert kci.fences == []


@pytest.mark.requirement("R26")
async def test_a_refused_epoch_is_given_back():
    right = Right()
    assert await write_both(Fenced(refuses=True), right) == ["left to the leader"] * 2
    assert right.was_refused == [7, 7]


async def test_a_log_stream_that_cannot_be_opened_is_an_error_and_not_an_empty_log():
    kci = Kci(log=[errors.NotFoundError("no such container")])
    with pytest.raises(provider.NotFoundError):
        await streams.open_log_stream(kci, "g", "c", models.PodLogOptions())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.NotFoundError("x"), provider.NotFoundError),
        (errors.InvalidError("x", code="InvalidParameterValue"), provider.RefusedError),
        (errors.RefusedError("x"), provider.UnavailableError),
        (errors.MissingCredentialsError("x"), provider.UnavailableError),
        (errors.ConflictError("x", code="InsufficientAddresses"), provider.TryLaterError),
        (errors.ConflictError("x", code="IdempotentParameterMismatch"), provider.OutcomeUnknownError),
        (errors.TryLaterError("x"), provider.UnavailableError),
        (errors.UnreachableError("x", reached=False), provider.UnavailableError),
        (errors.UnreachableError("x"), provider.OutcomeUnknownError),
    ],
)
def test_an_error_says_what_may_be_done_next(error, expected):
    assert type(faults.to_provider_error(error)) is expected


@pytest.mark.parametrize(
    ("own", "given", "service", "chosen"),
    [
        ("https://10.1.0.1:6443", "", "", "https://10.1.0.1:6443"),
        ("https://10.1.0.1:6443", "10.2.0.2:443", "", "https://10.2.0.2:443"),
        ("https://10.254.0.1:443", "", "10.254.0.1", None),
        ("https://kubernetes.default.svc", "", "", None),
        ("https://127.0.0.1:6443", "", "", None),
        ("https://localhost:6443", "", "", None),
        ("https://api.example.com", "", "10.254.0.1", "https://api.example.com"),
    ],
)
def test_instances_get_a_server_that_they_can_reach(own, given, service, chosen):
    assert kubeconfig.choose_server(own, cluster_server=given, service_host=service) == chosen


def test_neither_an_administrator_nor_a_service_account_is_handed_out(tmp_path):
    authority = kubelet_peers.Authority(tmp_path)

    def identity(group):
        certificate, _ = authority.issue("someone", group)
        return configs.ClusterConfig(server="https://x", client_certificate_pem=certificate.read_text())

    with pytest.raises(kit_errors.UserError, match="administrator"):
        kubeconfig.check_identity(identity("system:masters"))
    with pytest.raises(kit_errors.UserError, match="ServiceAccount"):
        kubeconfig.check_identity(
            configs.ClusterConfig(server="https://x", token=secret.Secret("t"), token_file=tmp_path / "t")
        )
    kubeconfig.check_identity(identity("system:nodes"))
