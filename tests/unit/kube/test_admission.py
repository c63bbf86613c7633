"""What is refused, by field and reason; and that an ordinary pod is not."""

import msgspec
import pytest

from kci.kube import admission, models

ORDINARY = {
    "metadata": {
        "name": "p",
        "ownerReferences": [{"kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}],
    },
    "spec": {
        "containers": [
            {
                "name": "c",
                "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": True},
                "livenessProbe": {"exec": {"command": ["true"]}},
                "readinessProbe": {"httpGet": {"port": 80}},
                "startupProbe": {"grpc": {"port": 80}},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"}],
            }
        ],
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "volumes": [
            {"name": "v", "emptyDir": {"medium": "Memory"}},
            {"name": "c", "configMap": {"name": "c"}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            # As an API server sends one without sources.
            {"name": "e", "projected": {"sources": None, "defaultMode": 420}},
        ],
        "securityContext": {"fsGroup": 1, "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]},
        "os": {"name": "linux"},
        "shareProcessNamespace": True,
    },
}


def read(body):
    return msgspec.convert(body, models.Pod)


def refused(body):
    return [(refusal.field, refusal.reason) for refusal in admission.refusals(read(body))]


def container(**fields):
    return {"spec": {"containers": [{"name": "c", **fields}]}}


def volume(**kind):
    return {"spec": {"volumes": [{"name": "v", **kind}]}}


def test_an_ordinary_pod_is_not_refused():
    assert refused(ORDINARY) == []


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"spec": {"hostNetwork": True}}, "spec.hostNetwork", "HostNetworkNotSupported"),
        ({"spec": {"hostPID": True}}, "spec.hostPID", "HostPidNotSupported"),
        ({"spec": {"hostIPC": True}}, "spec.hostIPC", "HostIpcNotSupported"),
        ({"spec": {"hostUsers": False}}, "spec.hostUsers", "UserNamespaceNotSupported"),
        (
            {"spec": {"initContainers": [{"name": "i", "restartPolicy": "Never"}]}},
            "spec.initContainers[0].restartPolicy",
            "ContainerRestartPolicyNotSupported",
        ),
        (
            {"spec": {"initContainers": [{"name": "i"}, {"name": "j", "lifecycle": {"preStop": {}}}]}},
            "spec.initContainers[1].lifecycle",
            "LifecycleHooksNotSupported",
        ),
        (
            {"spec": {"ephemeralContainers": [{"name": "e"}]}},
            "spec.ephemeralContainers",
            "EphemeralContainersNotSupported",
        ),
        ({"spec": {"runtimeClassName": "kata"}}, "spec.runtimeClassName", "RuntimeClassNotSupported"),
        ({"spec": {"resourceClaims": [{"name": "r"}]}}, "spec.resourceClaims", "ResourceClaimsNotSupported"),
        ({"spec": {"os": {"name": "windows"}}}, "spec.os.name", "OsNotSupported"),
        (
            {"spec": {"hostnameOverride": "a.b"}},
            "spec.hostnameOverride",
            "HostnameOverrideNotSupported",
        ),
        (
            {"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}},
            "spec.securityContext.seccompProfile",
            "SeccompProfileNotSupported",
        ),
        (
            {"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}},
            "spec.securityContext.sysctls[0]",
            "SysctlForbidden",
        ),
        (
            {"spec": {"securityContext": {"supplementalGroupsPolicy": "Strict"}}},
            "spec.securityContext.supplementalGroupsPolicy",
            "SupplementalGroupsPolicyNotSupported",
        ),
        (volume(hostPath={"path": "/"}), "spec.volumes[0].hostPath", "HostPathNotSupported"),
        (volume(nfs={}), "spec.volumes[0]", "VolumeKindNotSupported"),
        (volume(somethingNew={}), "spec.volumes[0]", "VolumeKindNotSupported"),
        (
            volume(emptyDir={"medium": "HugePages"}),
            "spec.volumes[0].emptyDir.medium",
            "VolumeMediumNotSupported",
        ),
        (
            volume(projected={"sources": [{"clusterTrustBundle": {}}]}),
            "spec.volumes[0].projected.sources[0]",
            "VolumeKindNotSupported",
        ),
        (container(volumeDevices=[{}]), "spec.containers[0].volumeDevices", "BlockVolumesNotSupported"),
        (container(lifecycle={"preStop": {}}), "spec.containers[0].lifecycle", "LifecycleHooksNotSupported"),
        (
            container(securityContext={"privileged": True}),
            "spec.containers[0].securityContext.privileged",
            "PrivilegedNotSupported",
        ),
        (
            container(securityContext={"appArmorProfile": {"type": "Localhost"}}),
            "spec.containers[0].securityContext.appArmorProfile",
            "AppArmorProfileNotSupported",
        ),
        (
            container(ports=[{"containerPort": 1, "hostPort": 1}]),
            "spec.containers[0].ports[0].hostPort",
            "HostPortNotSupported",
        ),
        (
            container(resources={"limits": {"nvidia.com/gpu": "1"}}),
            "spec.containers[0].resources",
            "ResourceNotSupported",
        ),
        (
            container(env=[{"name": "A", "valueFrom": {"fileKeyRef": {}}}]),
            "spec.containers[0].env[0].valueFrom.fileKeyRef",
            "EnvFilesNotSupported",
        ),
        (
            container(volumeMounts=[{"name": "v", "mountPath": "/", "mountPropagation": "Bidirectional"}]),
            "spec.containers[0].volumeMounts[0].mountPropagation",
            "MountPropagationNotSupported",
        ),
        (
            {"metadata": {"ownerReferences": [{"kind": "DaemonSet", "name": "d", "controller": True}]}},
            "metadata.ownerReferences[0]",
            "DaemonSetNotSupported",
        ),
    ],
)
def test_what_cannot_be_granted_is_refused_by_field(body, field, reason):
    assert refused(body) == [(field, reason)]


def test_everything_is_said_at_once_with_the_remedy():
    body = {"spec": {"hostNetwork": True, "hostPID": True, **container(lifecycle={"a": 1})["spec"]}}
    found = admission.refusals(read(body))
    assert len(found) == 3
    assert found[2].message == "spec.containers[0].lifecycle: it is not supported yet; remove it"
