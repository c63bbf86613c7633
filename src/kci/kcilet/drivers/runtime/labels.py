"""What we write on sandboxes and containers so that they are known again after any restart.

The `io.kubernetes.` names are the kubelet's (pkg/kubelet/types/labels.go, 1.36), so that crictl and
other tools show our pods as they show a kubelet's. A pod's own labels and annotations are not
passed on: a runtime might act on them (CDI, runtime options), and a tenant writes them.
"""

from __future__ import annotations

from kci.kube import models

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
GRACE = "io.kubernetes.pod.terminationGracePeriod"
RESTART_COUNT = "io.kubernetes.container.restartCount"

GROUP_ID = "kci.ksyun.com/group-id"
MANAGED = "kci.ksyun.com/managed"

# Annotations of a sandbox: CreateContainer asks for parts of the sandbox's configuration again,
# and a kcilet that was restarted has nothing but what the runtime kept.
HOSTNAME = "kci.ksyun.com/hostname"
LOG_DIRECTORY = "kci.ksyun.com/log-directory"
CGROUP_PARENT = "kci.ksyun.com/cgroup-parent"

OURS = {MANAGED: "true"}


def of_pod(pod: models.Pod) -> dict[str, str]:
    """The labels that a pod's sandbox and containers share."""
    return {
        POD_NAME: pod.metadata.name,
        POD_NAMESPACE: pod.metadata.namespace,
        POD_UID: pod.uid,
        **OURS,
    }
