import pytest

from kci.kcilet import ports
from kci.kcilet.plan import records
from kci.kube import models

EXITED, RUNNING, CREATED = (
    ports.ContainerPhase.EXITED,
    ports.ContainerPhase.RUNNING,
    ports.ContainerPhase.CREATED,
)


@pytest.mark.parametrize(
    ("policy", "attempts", "newest", "earlier"),
    [
        ("Always", [], None, None),
        ("Always", [CREATED], None, None),
        ("Always", [RUNNING], 0, None),
        ("Always", [EXITED, RUNNING], 1, 0),
        # waiting for its restart: the attempt that ended is the last and the one before at once
        ("Always", [EXITED, EXITED], 1, 1),
        ("Always", [EXITED, CREATED], 0, 0),
        # ended for good
        ("Never", [EXITED], 0, None),
    ],
)
def test_logs_are_those_that_a_kubelet_would_show(policy, attempts, newest, earlier):
    app = models.Container(name="app")
    pod = models.Pod(spec=models.PodSpec(containers=(app,), restart_policy=policy))
    sandbox = ports.SandboxId("s")
    seen = ports.SeenPod(
        pod_uid=models.PodUid("u"),
        containers=tuple(
            ports.SeenContainer(ports.ContainerId(str(n)), sandbox, "app", n, phase)
            for n, phase in enumerate(attempts)
        ),
    )
    assert records.logged_attempt(pod, app, seen, previous=False) == newest
    assert records.logged_attempt(pod, app, seen, previous=True) == earlier
