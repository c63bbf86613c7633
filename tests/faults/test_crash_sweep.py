"""Our programs are killed at every crash point, and at random, while pods come and go on a real line.

Each run: a pod that starts and one that is refused are applied and deleted, under the same names each time,
while a program dies on the way. Afterwards the line converges, nothing is left, and no invariant was
broken; a bystander's container runs through all of it. That the names can be used again after a crash is
shown by the run after it, as all runs are on one line.
"""

import contextlib
import itertools
import threading

import crash_points
import crashes as crashes_module
import guard as guard_module
import line as lines
import pytest
from line import IDLE, eventually, pod

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

REQUIREMENTS = {"virtual-kubelet": "R01", "kci-service": "R03", "kcilet": "R05"}
# Points that no run of pods passes, each with what passes it instead.
_BY_CSR = "kci up gives the node certificates and role: tests/integration/test_guide_deployment.py"
NOT_ON_THE_WAY = {
    "provider.request_certificate.before": _BY_CSR,
    "provider.request_certificate.after": _BY_CSR,
    "provider.approve_certificate.before": _BY_CSR,
    "provider.approve_certificate.after": _BY_CSR,
    "provider.remove_request.before": _BY_CSR,
    "provider.remove_request.after": _BY_CSR,
    "provider.set_role.before": _BY_CSR,
    "provider.set_role.after": _BY_CSR,
    "service.tombstones.before": "tombstones live for a day: tests/unit/service",
    "service.tombstones.after": "tombstones live for a day: tests/unit/service",
    "kcilet.adopt_link.before": "pods of an earlier version: tests/integration/test_pod_links.py",
    "kcilet.adopt_link.after": "as kcilet.adopt_link.before",
    "kcilet.add_gateway.before": "a stack has its one gateway before: tests/integration/test_pod_links.py",
    "kcilet.add_gateway.after": "as kcilet.add_gateway.before",
    "kcilet.remove_gateway.before": "as kcilet.add_gateway.before",
    "kcilet.remove_gateway.after": "as kcilet.add_gateway.before",
    "service.set_security_groups.before": "no pod changes a rule: tests/contract/test_engine.py",
    "service.set_security_groups.after": "as service.set_security_groups.before",
    **{
        f"service.{change}.{step}": "no pod makes a network: tests/harness/network_traffic.py"
        for change in (
            "create_vpc",
            "delete_vpc",
            "create_subnet",
            "modify_subnet",
            "delete_subnet",
            "create_security_group",
            "modify_security_group",
            "delete_security_group",
            "add_rule",
            "remove_rule",
        )
        for step in ("before", "after")
    },
    "vnode.lease.release.before": "an orderly stop is no crash: a Lease that was not released runs out",
    "vnode.lease.release.after": "as vnode.lease.release.before",
}
PROVOKED_WITHIN_S = 45.0
PROVOKED_TIMES = 2
LONGEST_KILL_DELAY_S = 2.0
VIRTUAL_KUBELET, SERVICE = "virtual-kubelet", "kci-service"
# Longer than all runs together.
FOR_HOURS = IDLE.replace("sleep 600", "sleep 86400")


def _delete_node(line):
    line.kubectl("delete", "node", VIRTUAL_KUBELET)


def _wait_only(_line):
    """It is passed by itself every few seconds."""


def _start_again(line, part=VIRTUAL_KUBELET):
    # It may just have ended at the point.
    with contextlib.suppress(AssertionError):
        line.kill(part)


def _start_with_a_label_missing(line):
    line.kubectl("label", "node", VIRTUAL_KUBELET, "kubernetes.io/arch-")
    _start_again(line)


def _start_service_again(line):
    _start_again(line, SERVICE)


def _run_a_container_that_ends(line):
    """Only the newest records of it are kept."""
    line.apply(pod("again", "exit 1"))


def _write_a_long_log(line):
    """More than a log may hold before it is put aside."""
    line.apply(pod("talks", f"yes $(printf '%01000d' 0) | head -n 11000; {IDLE}"))


def _run_a_command(line):
    """Long enough to be found. A crash cuts it off."""
    _ = line.run_kubectl("exec", "bystander", "--", "sleep", "1")


def _change_a_limit(line, megabits=itertools.count(20)):  # noqa: B008  (another one each time)
    line.kubectl(
        "annotate", "pod", "bystander", f"kubernetes.io/egress-bandwidth={next(megabits)}M", "--overwrite"
    )


def _reach_another_service(line, numbers=itertools.count()):  # noqa: B008  (another one each time)
    """A pod that reaches Services, and one more of them."""
    enabled = {"annotations": {"k8s.ksyun.com/kci-kube-proxy-enabled": "true"}}
    spec = {"selector": {"app": "nobody"}, "ports": [{"port": 80}]}
    metadata = {"name": f"more-{next(numbers)}"}
    more = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    line.apply(pod("reaches", IDLE, metadata=enabled), more)


def _reach_services_for_a_while(line):
    """Nobody else reaches any."""
    _reach_another_service(line)
    line.wait_ready("pod/reaches")
    line.kubectl("delete", "pod", "reaches", "--wait=false")


# What passes a point that the coming and going of pods does not.
PROVOKED = {
    "vnode.lease.write.": _wait_only,
    "vnode.create_node.": _delete_node,
    "vnode.patch_node_labels.": _start_with_a_label_missing,
    "vnode.patch_node_status.": _start_again,
    "service.sync.": _start_service_again,
    "service.bootstrap_vpc.": _start_service_again,
    "service.bootstrap_subnet.": _start_service_again,
    "kcilet.note_store.": _start_service_again,
    "kcilet.remove_container.": _run_a_container_that_ends,
    "kcilet.exec.": _run_a_command,
    "kcilet.limit_traffic.": _change_a_limit,
    "kcilet.services.": _reach_another_service,
    "kcilet.forget_services.": _reach_services_for_a_while,
    "logs.rotation.": _write_a_long_log,
}


@pytest.fixture(scope="module")
def line():
    stack = lines.new_line()
    try:
        yield stack
    finally:
        stack.kci("down", "--purge", check=False)


@pytest.fixture(scope="module")
def crashes(line, tmp_path_factory):
    killer = crashes_module.Crashes(line, tmp_path_factory.mktemp("points"))
    killer.up(*guard_module.UP)
    return killer


@pytest.fixture(scope="module")
def guard(line, crashes):
    watching = guard_module.Guard(line)
    watching.start()
    try:
        yield watching
        watching.at_end()
    finally:
        watching.stop()


@pytest.fixture(scope="module", autouse=True)
def _bystander(line, guard):
    """Runs from the first crash to the last, in the same process. It has a limit from its start: the device
    that holds it stays as long as the pod does.
    """
    limited = {"annotations": {"kubernetes.io/egress-bandwidth": "10M"}}
    line.apply(pod("bystander", FOR_HOURS, metadata=limited))
    line.wait_ready("pod/bystander")
    uid = line.get("pod", "bystander")["metadata"]["uid"]
    before = line.live_instances()[uid]
    yield
    after = line.live_instances()[uid]
    seen = line.get("pod", "bystander")
    assert after == before
    assert lines.restarts(seen) == 0
    states = [write.answer["status"] for write in guard.history.read().pods()[uid]]
    ready = [lines.is_ready({"status": status}) for status in states]
    assert not any(was and not now for was, now in itertools.pairwise(ready)), "Ready flapped"


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, id=point.name, marks=pytest.mark.requirement(REQUIREMENTS[point.program]))
        for point in crashes_module.in_turn(crash_points.list_points())
        if point.name not in NOT_ON_THE_WAY
    ],
)
def test_a_crash_at_any_point_is_made_good(line, crashes, point):
    crashes.arm(point)
    provoke = next((do for start, do in PROVOKED.items() if point.name.startswith(start)), None)
    if provoke:
        # The first time may meet a program that ends for the crash before this one.
        for _ in range(PROVOKED_TIMES):
            provoke(line)
            with contextlib.suppress(AssertionError):
                eventually(lambda: crashes.has_fired(point), timeout_s=PROVOKED_WITHIN_S)
                break
    _come_and_go(line, crashes.converge)
    if not crashes.has_fired(point):
        # It may have been armed in a program that was ending for the crash before this one.
        _come_and_go(line, crashes.converge)
    line.kubectl(
        "delete", "pod", "again", "talks", "reaches", "--ignore-not-found", "--timeout=60s", timeout_s=90
    )
    has_fired = crashes.has_fired(point)
    if not has_fired:
        crashes.disarm(point.program)
    crashes.wait_running(point.program)
    assert has_fired, f"{point.name} was not passed: add what passes it, or a reason to NOT_ON_THE_WAY"


@pytest.mark.requirement("R01")
def test_the_virtual_node_killed_at_random_moments_makes_no_second_instance(line, crashes, guard, runs):
    count = runs.scale(quick=3, faults=50, release=200)
    crashes.wait_running(VIRTUAL_KUBELET)
    # Started again at once: a supervisor would wait longer after each death in a row.
    with line.by_hand(VIRTUAL_KUBELET) as program:
        for run in range(count):
            with guard.around():
                delay_s = runs.random(run).uniform(0, LONGEST_KILL_DELAY_S)
                killer = threading.Timer(delay_s, _kill_and_start, [program])
                killer.start()
                _come_and_go(line, _converge)
                killer.join()


def _kill_and_start(program):
    program.kill()
    program.start()


def _converge(look, what):
    """Of a program that is started again at once."""
    eventually(look, timeout_s=LONGEST_KILL_DELAY_S + crashes_module.CONVERGE_S, what=what)


def _come_and_go(line, converge):
    """Each step converges, whatever crashes on the way."""
    # Always pulled: that is a step of its own.
    line.apply(
        pod("comes", IDLE, container={"imagePullPolicy": "Always"}),
        pod("refused", IDLE, hostNetwork=True),
    )
    converge(lambda: lines.is_ready(line.get("pod", "comes")), "the pod is ready")
    converge(lambda: line.get("pod", "refused")["status"].get("reason"), "the refusal is told")
    line.kubectl("delete", "pod", "comes", "refused", "--wait=false")
    converge(lambda: not {"comes", "refused"} & line.pods().keys(), "the pods are gone")
