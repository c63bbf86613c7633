"""The reasons that our programs give: of Events, conditions, and containers that wait or have ended. Pure.

Whoever gives one is typed with `Reason`, `OfCondition` or `OfContainer`, so that mypy refuses a word that is
not here, and docs/reference/events.md is made of the tables. Words of Kubernetes keep their meaning.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, NewType, get_args

# The code of an error that the cloud answered with: its catalogue says what it means.
Code = NewType("Code", str)

# ---- Events ------------------------------------------------------------------------------------

OfNode = Literal[
    "ClientCANotUsable",
    "CredentialsNotUsable",
    "IdentityNotIssued",
    "ServingCertificateNotIssued",
    "TaintsDiffer",
]
OfRefusal = Literal[
    "AppArmorProfileNotSupported",
    "BlockVolumesNotSupported",
    "ContainerRestartPolicyNotSupported",
    "DaemonSetNotSupported",
    "EnvFilesNotSupported",
    "EphemeralContainersNotSupported",
    "HostIpcNotSupported",
    "HostNetworkNotSupported",
    "HostPathNotSupported",
    "HostPidNotSupported",
    "HostPortNotSupported",
    "HostnameOverrideNotSupported",
    "InvalidAnnotation",
    "LifecycleHooksNotSupported",
    "MissingSecurityGroup",
    "MissingSubnet",
    "MountPropagationNotSupported",
    "NameTooLong",
    "NotSupported",
    "OsNotSupported",
    "OwnNode",
    "PrivilegedNotSupported",
    "ProcMountNotSupported",
    "RecursiveReadOnlyNotSupported",
    "ResourceClaimsNotSupported",
    "ResourceNotSupported",
    "RetainIpNotSupported",
    "RuntimeClassNotSupported",
    "SeccompProfileNotSupported",
    "SizeNotOffered",
    "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
    "TooLarge",
    "UserNamespaceNotSupported",
    "VolumeKindNotSupported",
    "VolumeMediumNotSupported",
]
OfPod = Literal[
    "Accepted",
    "CreateError",
    "CreateOutcomeUnknown",
    "DiskNotLimited",
    "InstanceCreated",
    "InstanceLost",
    "InstanceNotRemoved",
    "InstanceSizeRounded",
    "KciUnavailable",
    "LimitAboveInstance",
    "MoreContainersThanDocumented",
    "ProviderNotReady",
    "UnknownAnnotation",
]
OfRun = Literal[
    "BackOff",
    "BandwidthNotLimited",
    "Created",
    "DNSConfigForming",
    "DNSNotReachable",
    "DeadlineExceeded",
    "ErrImageNeverPull",
    "Failed",
    "FailedCreatePodSandBox",
    "FailedKillPod",
    "FailedMount",
    "InspectFailed",
    "Killing",
    "MissingClusterDNS",
    "ProbeWarning",
    "Pulled",
    "Pulling",
    "SandboxChanged",
    "ServicesNotKnown",
    "ServicesNotReached",
    "Started",
    "Unhealthy",
]
# Of an Event, and of the pod's status where its pod is kept from running.
Reason = OfNode | OfRefusal | OfPod | OfRun | Code

# ---- conditions and containers -------------------------------------------------------------------

OfCondition = Literal[
    "",
    "ContainersNotInitialized",
    "ContainersNotReady",
    "KubeletHasNoDiskPressure",
    "KubeletHasSufficientMemory",
    "KubeletHasSufficientPID",
    "KubeletReady",
    "PodCompleted",
    "PodFailed",
    "ReadinessGatesNotReady",
    "UnknownContainerStatuses",
]
# A group's status reason at the KCI API, besides those of containers: the pod cannot be watched or told yet.
OfGroup = Literal["", "PodTaken", "SourceRefused"]
# Why an attempt to bring a container up failed.
OfAttempt = Literal[
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "Failed",
    "InvalidImageName",
    "RunContainerError",
]
OfContainer = (
    OfAttempt
    | Literal[
        "CannotRunAsAsked",
        "Completed",
        "ContainerCreating",
        "ContainerStatusUnknown",
        "CrashLoopBackOff",
        "Error",
        "ImagePullBackOff",
        "OOMKilled",
        "PodInitializing",
    ]
)


class About(NamedTuple):
    """`types`: those of an Event, or how the state or condition is called. `remedy` may be empty."""

    types: str
    means: str
    remedy: str = ""


_PENDING = "Warning"

NODE: dict[OfNode, About] = {
    "ClientCANotUsable": About(
        "Warning",
        "the CA of the kubelet API's clients cannot be read or used",
        "give `--client-ca-file`, or let the account read `kube-system/extension-apiserver-authentication`",
    ),
    "CredentialsNotUsable": About(
        "Warning",
        "the keys that sign calls of the KCI service are missing, damaged or have ended",
        "put good keys where the message says; they are used at once",
    ),
    "IdentityNotIssued": About(
        "Warning",
        "the node waits for the certificate that makes it a node",
        "`kubectl certificate approve NAME`, with the name in the message",
    ),
    "ServingCertificateNotIssued": About(
        "Warning",
        "the node waits for the certificate of its kubelet API; logs and exec fail meanwhile",
        "`kubectl certificate approve NAME`, with the name in the message",
    ),
    "TaintsDiffer": About(
        "Warning",
        "the node object has other taints than the settings say, and may not change its own",
        "the `kubectl taint` command in the message, or change the settings",
    ),
}

_REMOVE = "remove the field that the message names"

REFUSALS: dict[OfRefusal, About] = {
    "AppArmorProfileNotSupported": About(_PENDING, "a profile of the machine is asked for", _REMOVE),
    "BlockVolumesNotSupported": About(_PENDING, "`volumeDevices` is not supported yet", _REMOVE),
    "ContainerRestartPolicyNotSupported": About(
        _PENDING, "a container has a restart policy of its own and is no sidecar", _REMOVE
    ),
    "DaemonSetNotSupported": About(
        _PENDING,
        "the pod is a DaemonSet's, and there is no machine to serve",
        "keep the DaemonSet away by node affinity",
    ),
    "EnvFilesNotSupported": About(
        _PENDING, "`fileKeyRef` is not supported yet", "use `configMapKeyRef` or `secretKeyRef`"
    ),
    "EphemeralContainersNotSupported": About(
        _PENDING, "ephemeral containers are not supported yet", "use `kubectl exec`"
    ),
    "HostIpcNotSupported": About(_PENDING, "`hostIPC` asks for the machine", _REMOVE),
    "HostNetworkNotSupported": About(_PENDING, "`hostNetwork` asks for the machine", _REMOVE),
    "HostPathNotSupported": About(
        _PENDING,
        "`hostPath` asks for the machine",
        "use emptyDir, configMap, secret, downwardAPI or projected",
    ),
    "HostPidNotSupported": About(_PENDING, "`hostPID` asks for the machine", _REMOVE),
    "HostPortNotSupported": About(
        _PENDING, "`hostPort` asks for the machine", "use the pod's address or a Service"
    ),
    "HostnameOverrideNotSupported": About(
        _PENDING, "`hostnameOverride` is not supported yet", "use `hostname`"
    ),
    "InvalidAnnotation": About(
        _PENDING,
        "an annotation of Kingsoft Cloud's cannot be read",
        "write what the message says ([annotations](annotations.md))",
    ),
    "LifecycleHooksNotSupported": About(_PENDING, "`lifecycle` is not supported yet", _REMOVE),
    "MissingSecurityGroup": About(
        _PENDING,
        "neither pod nor node names a security group",
        "annotate the pod, or set `KCI_SECURITY_GROUP_IDS`",
    ),
    "MissingSubnet": About(
        _PENDING, "neither pod nor node names a subnet", "annotate the pod, or set `KCI_SUBNET_ID`"
    ),
    "MountPropagationNotSupported": About(
        _PENDING, "Bidirectional needs a privileged container", "use None or HostToContainer"
    ),
    "NameTooLong": About(
        _PENDING,
        "namespace and name together are longer than a container group's name may be",
        "use shorter ones",
    ),
    "NotSupported": About(
        _PENDING, "the service at hand does not offer what the pod or command needs", "the message says what"
    ),
    "OsNotSupported": About(_PENDING, "the pod is for another operating system", "schedule it elsewhere"),
    "OwnNode": About(
        _PENDING,
        "the pod runs the virtual node itself, and landed on it",
        "keep it off by node affinity ([how](../how-to/approve-the-node.md#where-it-may-not-run))",
    ),
    "PrivilegedNotSupported": About(
        _PENDING, "`privileged` asks for the machine", "remove it, and add single capabilities if needed"
    ),
    "ProcMountNotSupported": About(_PENDING, "only the default `procMount` is granted", _REMOVE),
    "RecursiveReadOnlyNotSupported": About(_PENDING, "the runtime cannot promise it", "use IfPossible"),
    "ResourceClaimsNotSupported": About(_PENDING, "the node has no devices", _REMOVE),
    "ResourceNotSupported": About(
        _PENDING, "a resource besides CPU, memory and ephemeral storage is asked for", _REMOVE
    ),
    "RetainIpNotSupported": About(
        _PENDING, "the service at hand could not tell whose address is kept", "remove the annotation"
    ),
    "RuntimeClassNotSupported": About(_PENDING, "the node chooses the runtime", _REMOVE),
    "SeccompProfileNotSupported": About(
        _PENDING, "a profile besides RuntimeDefault is asked for", "use RuntimeDefault"
    ),
    "SizeNotOffered": About(
        _PENDING,
        "the annotations name a size that there is not, and the node has `--strict-sizes`",
        "name one of `kci packages`",
    ),
    "SupplementalGroupsPolicyNotSupported": About(
        _PENDING, "groups of the image are always merged", "use Merge"
    ),
    "SysctlForbidden": About(_PENDING, "a sysctl is not among the safe ones", "remove it"),
    "TooLarge": About(_PENDING, "the pod asks for more than the largest size has", "ask for less"),
    "UserNamespaceNotSupported": About(_PENDING, "`hostUsers: false` is not supported yet", _REMOVE),
    "VolumeKindNotSupported": About(
        _PENDING,
        "a kind of volume, or of projected source, is not supported yet",
        "use emptyDir, configMap, secret, downwardAPI or projected",
    ),
    "VolumeMediumNotSupported": About(_PENDING, "there is no such medium", "leave it empty or use Memory"),
}

POD: dict[OfPod, About] = {
    "Accepted": About("Normal", "the pod gets the size that the message names, and why that one"),
    "CreateError": About(
        "Warning",
        "the instance did not come up, and the pod has failed",
        "the message has the service's word",
    ),
    "CreateOutcomeUnknown": About(
        "Warning",
        "the create call was not answered; the node looks before it asks again",
        "if it stays: see the service",
    ),
    "DiskNotLimited": About(
        "Warning",
        "the pod limits what it writes to disk, and the limit is not held; it runs all the same",
        "use an emptyDir with `medium: Memory` and a `sizeLimit` where a limit must hold",
    ),
    "InstanceCreated": About("Normal", "the service has taken the pod; the message has the instance's id"),
    "InstanceLost": About(
        "Warning",
        "the instance that ran the pod is gone, and the pod has failed",
        "its owner makes another pod",
    ),
    "InstanceNotRemoved": About(
        "Warning",
        "the instance of a pod that ends cannot be removed yet; it is tried again",
        "see the service",
    ),
    "InstanceSizeRounded": About(
        "Warning", "the annotations name a size that there is not; the next larger one was taken"
    ),
    "KciUnavailable": About(
        "Warning",
        "the service is away or overloaded; the pod is created once it answers",
        "see whether the endpoint can be reached",
    ),
    "LimitAboveInstance": About(
        "Warning",
        "a container's limit is above the instance's size, and is the size",
        "ask for a larger size",
    ),
    "MoreContainersThanDocumented": About(
        "Warning", "the pod has more containers than Kingsoft Cloud documents; it runs all the same"
    ),
    "ProviderNotReady": About(
        "Warning", "the service cannot be used yet; the pod is created once it can", "the message says why"
    ),
    "UnknownAnnotation": About(
        "Warning", "nobody reads an annotation of Kingsoft Cloud's prefix", "the message has the nearest name"
    ),
}

RUN: dict[OfRun, About] = {
    "BackOff": About(
        "Normal, Warning",
        "an image pull (Normal) or a failed container (Warning) is tried again later",
        "see the container's log, or the reason of the pull",
    ),
    "BandwidthNotLimited": About("Warning", "the pod's traffic is not limited as its annotation says"),
    "Created": About("Normal", "a container was made"),
    "DNSConfigForming": About(
        "Warning", "more name servers, search paths or options than may be; the rest was cut"
    ),
    "DNSNotReachable": About(
        "Warning",
        "the pod's DNS server is a ClusterIP, and the pod has no kube-proxy",
        "the annotation or setting that the message names ([DNS](../how-to/dns.md))",
    ),
    "DeadlineExceeded": About("Normal", "the pod ran longer than `activeDeadlineSeconds`, and is ended"),
    "ErrImageNeverPull": About(
        "Warning",
        "the image is not there, and `imagePullPolicy: Never` forbids to get it",
        "use another policy",
    ),
    "Failed": About("Warning", "an image or a container could not be had; the message says which and why"),
    "FailedCreatePodSandBox": About(
        "Warning", "the pod's sandbox or network could not be made; it is tried again"
    ),
    "FailedKillPod": About("Warning", "a container or sandbox could not be stopped; it is tried again"),
    "FailedMount": About(
        "Warning",
        "a volume could not be made; it is tried again",
        "make the ConfigMap or Secret that the message names",
    ),
    "InspectFailed": About("Warning", "the image's name cannot be read", "write another name"),
    "Killing": About("Normal", "a container is stopped; the message says why"),
    "MissingClusterDNS": About(
        "Warning",
        "the pod wants cluster DNS, and the node has none to give",
        "start the node with `--cluster-dns`",
    ),
    "ProbeWarning": About("Warning", "a probe was redirected elsewhere, and counts as passed"),
    "Pulled": About("Normal", "an image is there"),
    "Pulling": About("Normal", "an image is being pulled"),
    "SandboxChanged": About("Normal", "the pod's sandbox is gone, and another one is made"),
    "ServicesNotKnown": About(
        "Warning",
        "Services cannot be read, so ClusterIPs are not reached, or as they were known last",
        "give [the right](../how-to/reach-services.md#the-right-to-read-services) that the message names",
    ),
    "ServicesNotReached": About("Warning", "the machine does not take the rules of Services"),
    "Started": About("Normal", "a container runs"),
    "Unhealthy": About("Warning", "a probe failed; the message has its answer"),
}

CONDITIONS: dict[OfCondition, About] = {
    "ContainersNotInitialized": About("Initialized", "init containers have not all ended well"),
    "ContainersNotReady": About(
        "Ready, ContainersReady", "the containers that the message names are not ready"
    ),
    "KubeletHasNoDiskPressure": About("DiskPressure", "always so: a virtual node has no disk of its own"),
    "KubeletHasSufficientMemory": About(
        "MemoryPressure", "always so: a virtual node has no memory of its own"
    ),
    "KubeletHasSufficientPID": About("PIDPressure", "always so: a virtual node has no processes of its own"),
    "KubeletReady": About("Ready (node)", "the virtual node runs and keeps its Lease"),
    "PodCompleted": About("Initialized, Ready, ContainersReady", "all containers have ended well"),
    "PodFailed": About("Ready, ContainersReady", "the pod has failed"),
    "ReadinessGatesNotReady": About("Ready", "a readiness gate is not True; others set it"),
    "UnknownContainerStatuses": About(
        "Initialized, Ready, ContainersReady", "nothing is known of the containers yet"
    ),
}

CONTAINERS: dict[OfContainer, About] = {
    "CannotRunAsAsked": About(
        "waiting", "what runs the pod refuses it; the message names the field", "change the pod"
    ),
    "Completed": About("terminated", "ended with exit code 0"),
    "ContainerCreating": About("waiting", "volumes, image or network are being made"),
    "ContainerStatusUnknown": About("terminated", "it is gone, and nobody saw how it ended"),
    "CrashLoopBackOff": About(
        "waiting", "it ended again and again, and is started later", "`kubectl logs --previous`"
    ),
    "CreateContainerConfigError": About(
        "waiting",
        "something that the container refers to is missing or makes no sense",
        "make the ConfigMap, Secret or key that the message names",
    ),
    "CreateContainerError": About("waiting", "the runtime could not make it; it is tried again"),
    "ErrImageNeverPull": About("waiting", "the image is not there, and the policy forbids to get it"),
    "ErrImagePull": About("waiting", "the image could not be had", "look at its name, and at the registry"),
    "Error": About("terminated", "ended with another exit code, or by a signal", "`kubectl logs --previous`"),
    "Failed": About("waiting", "a step before the container failed; it is tried again"),
    "ImagePullBackOff": About(
        "waiting", "the image is asked for again later", "look at its name, and at the registry"
    ),
    "InvalidImageName": About("waiting", "the image's name cannot be read", "write another name"),
    "OOMKilled": About("terminated", "the kernel ended it at its memory limit", "give it more memory"),
    "PodInitializing": About("waiting", "init containers are not done yet"),
    "RunContainerError": About(
        "waiting", "the runtime could not start it; it is tried again", "look at its command"
    ),
}


GROUPS: dict[OfGroup, About] = {
    "PodTaken": About("status reason", "another container group has the same pod", "delete one of the two"),
    "SourceRefused": About(
        "status reason",
        "the kubeconfig of the group cannot be used",
        "see the message and the node's identity",
    ),
}


def of_error(code: str) -> Code:
    """An error's code as a reason."""
    return Code(code)


def unlisted() -> list[str]:
    """What is in a type and not in its table, or the other way round; empty unless somebody forgot."""
    of_container = [word for part in get_args(OfContainer) for word in (get_args(part) or (part,))]
    pairs: tuple[tuple[tuple[str, ...] | list[str], object], ...] = (
        (get_args(OfNode), NODE),
        (get_args(OfRefusal), REFUSALS),
        (get_args(OfPod), POD),
        (get_args(OfRun), RUN),
        ([word for word in get_args(OfCondition) if word], CONDITIONS),
        (of_container, CONTAINERS),
        ([word for word in get_args(OfGroup) if word], GROUPS),
    )
    return [word for words, table in pairs if isinstance(table, dict) for word in set(words) ^ set(table)]
