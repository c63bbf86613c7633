"""Phase, conditions and quality of service, by the cases of the kubelet's own tests."""

import pytest

from kci.kube import models, status

WAITING = models.ContainerState(waiting=models.ContainerStateWaiting(reason="ContainerCreating"))
RUNNING = models.ContainerState(running=models.ContainerStateRunning())
NOTHING = models.ContainerState()


def ended(code):
    return models.ContainerState(terminated=models.ContainerStateTerminated(exit_code=code))


def pod_with(*names, policy="Always", init=(), sidecars=(), **fields):
    inits = [models.Container(name=name) for name in init]
    inits += [models.Container(name=name, restart_policy="Always") for name in sidecars]
    spec = models.PodSpec(
        containers=tuple(models.Container(name=name) for name in names),
        init_containers=tuple(inits),
        restart_policy=policy,
        readiness_gates=fields.pop("gates", ()),
    )
    return models.Pod(spec=spec, **fields)


def seen(name, state, last=NOTHING, *, ready=False, started=None):
    return models.ContainerStatus(name=name, state=state, last_state=last, ready=ready, started=started)


def phase(policy, *states, is_terminal=False):
    names = [f"c{number}" for number in range(len(states))]
    statuses = [
        seen(name, *(state if isinstance(state, tuple) else (state,)))
        for name, state in zip(names, states, strict=True)
        if state is not None
    ]
    return status.pod_phase(pod_with(*names, policy=policy), statuses, is_terminal=is_terminal)


BACK_OFF = (WAITING, ended(1))
BACK_OFF_AFTER_SUCCESS = (WAITING, ended(0))


# As pkg/kubelet/kubelet_pods_test.go (TestPodPhaseWithRestart*).
@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        ("Always", [None, None], "Pending"),
        ("Always", [WAITING, RUNNING], "Pending"),
        ("Always", [RUNNING, None], "Pending"),
        ("Always", [RUNNING, NOTHING], "Pending"),
        ("Always", [RUNNING, RUNNING], "Running"),
        ("Always", [RUNNING, ended(1)], "Running"),
        ("Always", [ended(0), ended(0)], "Running"),
        ("Always", [RUNNING, BACK_OFF], "Running"),
        ("Always", [BACK_OFF, BACK_OFF], "Running"),
        ("Never", [ended(0), ended(0)], "Succeeded"),
        ("Never", [ended(0), ended(1)], "Failed"),
        ("Never", [RUNNING, ended(1)], "Running"),
        ("OnFailure", [ended(0), ended(0)], "Succeeded"),
        ("OnFailure", [ended(0), ended(1)], "Running"),
        ("OnFailure", [RUNNING, BACK_OFF], "Running"),
        ("OnFailure", [ended(0), BACK_OFF], "Running"),
    ],
)
def test_the_phase_follows_from_containers_and_restart_policy(policy, states, expected):
    assert phase(policy, *states) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([ended(0), ended(0)], "Succeeded"),
        ([ended(0), ended(137)], "Failed"),
        ([ended(0), BACK_OFF_AFTER_SUCCESS], "Failed"),
        ([ended(0), RUNNING], "Running"),
    ],
)
def test_a_pod_that_ends_ends_whatever_its_restart_policy(states, expected):
    assert phase("Always", *states, is_terminal=True) == expected


def test_a_terminal_phase_stays():
    pod = pod_with("c", status=models.PodStatus(phase="Failed"))
    assert status.pod_phase(pod, [seen("c", RUNNING)]) == "Failed"


@pytest.mark.parametrize(
    ("policy", "first", "main", "expected"),
    [
        ("Always", RUNNING, WAITING, "Pending"),
        ("Always", ended(1), WAITING, "Pending"),
        ("Never", ended(1), WAITING, "Failed"),
        ("Never", ended(0), WAITING, "Pending"),
        ("Always", ended(0), RUNNING, "Running"),
    ],
)
def test_init_containers_come_first(policy, first, main, expected):
    pod = pod_with("c", policy=policy, init=("i",))
    assert status.pod_phase(pod, [seen("i", first), seen("c", main)]) == expected


def test_a_sidecar_counts_only_while_it_runs():
    pod = pod_with("c", policy="Never", sidecars=("s",))
    assert status.pod_phase(pod, [seen("s", RUNNING, started=False), seen("c", WAITING)]) == "Pending"
    assert status.pod_phase(pod, [seen("s", RUNNING, started=True), seen("c", ended(0))]) == "Running"
    assert status.pod_phase(pod, [seen("s", ended(143)), seen("c", ended(0))]) == "Succeeded"


def written(pod, phase, *statuses, has_sandbox=True, now="T2"):
    found = status.conditions(pod, phase, statuses, has_sandbox=has_sandbox, now=now)
    return {condition.type: condition for condition in found}


def said(condition):
    return (condition.status, condition.reason, condition.message)


def test_conditions_of_a_pod_on_its_way():
    pod = pod_with("a", "b")
    found = written(pod, "Pending", seen("a", RUNNING, ready=True), seen("b", WAITING), has_sandbox=False)
    unready = ("False", "ContainersNotReady", "containers with unready status: [b]")
    assert said(found["PodReadyToStartContainers"]) == ("False", "", "")
    assert said(found["Initialized"]) == ("True", "", "")
    assert said(found["Ready"]) == said(found["ContainersReady"]) == unready
    assert said(found["PodScheduled"]) == ("True", "", "")


@pytest.mark.parametrize(("phase", "reason"), [("Succeeded", "PodCompleted"), ("Failed", "PodFailed")])
def test_conditions_of_a_pod_that_ended(phase, reason):
    found = written(pod_with("a"), phase, seen("a", ended(0)))
    assert said(found["Ready"]) == said(found["ContainersReady"]) == ("False", reason, "")


def test_a_gate_holds_readiness_back_until_it_is_true():
    gates = (models.PodReadinessGate(condition_type="example.com/lb"),)
    waiting = pod_with("a", gates=gates)
    found = written(waiting, "Running", seen("a", RUNNING, ready=True))
    assert found["ContainersReady"].status == "True"
    assert (found["Ready"].status, found["Ready"].reason) == ("False", "ReadinessGatesNotReady")
    open_gate = models.PodCondition(type="example.com/lb", status="True", last_transition_time="T0")
    passed = pod_with("a", gates=gates, status=models.PodStatus(conditions=(open_gate,)))
    found = written(passed, "Running", seen("a", RUNNING, ready=True))
    assert found["Ready"].status == "True"
    assert found["example.com/lb"] == open_gate, "conditions of others are kept"


def test_a_transition_time_changes_with_the_status_only():
    pod = pod_with("a")
    first = status.conditions(pod, "Pending", [seen("a", WAITING)], has_sandbox=True, now="T1")
    pod = pod_with("a", status=models.PodStatus(conditions=first))
    found = written(pod, "Running", seen("a", RUNNING, ready=True), now="T2")
    assert found["Ready"].last_transition_time == "T2"
    assert found["PodScheduled"].last_transition_time == "T1"
    pod = pod_with("a", status=models.PodStatus(conditions=tuple(found.values())))
    again = written(pod, "Running", seen("a", RUNNING, ready=True), now="T3")
    assert again == found, "writing the status again changes nothing"


def resources(requests=None, limits=None):
    return models.ResourceRequirements(requests=requests or {}, limits=limits or {})


FULL = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([resources()], "BestEffort"),
        ([resources({"cpu": "0"}, {})], "BestEffort"),
        ([resources(FULL, {"cpu": "1000m", "memory": "1024Mi"})], "Guaranteed"),
        ([resources(FULL, FULL), resources()], "Burstable"),
        ([resources(FULL, {"cpu": "2", "memory": "1Gi"})], "Burstable"),
        ([resources({}, {"cpu": "1"})], "Burstable"),
        ([resources({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"})], "BestEffort"),
    ],
)
def test_quality_of_service(containers, expected):
    spec = models.PodSpec(
        containers=tuple(models.Container(name=f"c{n}", resources=r) for n, r in enumerate(containers))
    )
    assert status.qos_class(models.Pod(spec=spec)) == expected
    known = models.PodStatus(qos_class="Guaranteed")
    assert status.qos_class(models.Pod(spec=spec, status=known)) == "Guaranteed"
