"""A line with its account of what happened, and the invariants over it after each test."""

import os
import shutil

import between as betweens
import guard as guard_module
import leftovers
import line as lines
import needs
import pytest
import traffic

STANDING = 4
SERVICE = "kubernetes.io/service-name"


def why_not() -> str:
    if os.geteuid() != 0:
        return "the whole line needs root"
    missing = [name for name in ("containerd", "runc", "ip", "nft", "nsenter") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (run `make test`)" if missing else ""


@pytest.fixture(scope="module")
def line():
    """One stack for the tests of a file."""
    needs.demand(why_not())
    stack = lines.new_line()
    try:
        stack.kci("up", "--detach", "--netns", stack.netns, *guard_module.UP)
        yield stack
    finally:
        stack.kci("down", "--purge", check=False)
        left = leftovers.processes(str(stack.state_dir), stack.netns)
    assert not left
    assert not stack.state_dir.exists()


@pytest.fixture(scope="module")
def guard(line):
    """Watches the line; at the end no secret may stand in anything that it wrote or shows."""
    watching = guard_module.Guard(line)
    watching.start()
    try:
        yield watching
        watching.at_end()
    finally:
        watching.stop()


@pytest.fixture
def between(line):
    with betweens.Between(line) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _guarded(request):
    """After each test on a line, also on a file's own, nothing of it is left, and no invariant was broken."""
    if "line" not in request.fixturenames:
        yield
        return
    with request.getfixturevalue("guard").around():
        yield


@pytest.fixture
def recorder(guard):
    """Takes down what the test does to the line, so that the checker can tell a fault from a failure."""
    return guard.history


@pytest.fixture
def bystanders(line):
    """Pods with the same processes at the end as at the beginning, which are ready in the end."""
    line.apply(*traffic.standing("standing", STANDING))
    try:
        line.wait_pods_ready("app=standing", STANDING, timeout_s=120)
        lines.eventually(
            lambda: (
                sum(map(ready_endpoints, line.get("endpointslices", "-l", f"{SERVICE}=standing")["items"]))
                == STANDING
            ),
            what="the Service has them all",
        )
        before = {
            uid: instance
            for uid, instance in line.live_instances().items()
            if instance.pod.startswith("standing")
        }
        assert len(before) == STANDING
        yield before
        assert unchanged(before, line.live_instances()) == []
        after = line.wait_pods_ready("app=standing", STANDING, timeout_s=30)
        assert [lines.restarts(pod) for pod in after.values()] == [0] * STANDING
    finally:
        line.kubectl("delete", "deployment,service", "standing", "--wait=false")
        lines.eventually(
            lambda: not line.pods("app=standing"), timeout_s=90, what="the standing pods are gone"
        )


@pytest.fixture
def standing(line, bystanders):
    """Bystanders of which nobody could see anything either: no flap of readiness or endpoints."""
    with (
        lines.Watch(line, "/api/v1/namespaces/default/pods?labelSelector=app%3Dstanding") as pods,
        lines.Watch(
            line,
            f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector={SERVICE}%3Dstanding",
        ) as slices,
    ):
        yield bystanders
    assert flaps(pods, slices) == []


def unchanged(before, after):
    """What is different of the instances that were there before."""
    return [
        f"{was.pod}: {was} became {after.get(uid)}"
        for uid, was in before.items()
        if uid not in after
        or (was.sandbox_pid, was.container_pids) != (after[uid].sandbox_pid, after[uid].container_pids)
    ]


def flaps(pods, slices):
    """Every moment in which a standing pod did not look ready, or was counted as restarted."""
    found = []
    for states in pods.objects().values():
        found += [
            f"{state['metadata']['name']}: {state['status']}"
            for state in states
            if not lines.is_ready(state) or lines.restarts(state)
        ]
    for states in slices.objects().values():
        for state in states:
            if ready_endpoints(state) != STANDING:
                found.append(f"{state['metadata']['name']}: {state.get('endpoints')}")
    return found


def ready_endpoints(slice_):
    return sum(bool(endpoint["conditions"].get("ready")) for endpoint in slice_.get("endpoints") or [])
