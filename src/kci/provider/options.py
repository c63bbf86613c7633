"""What the program can be told, as data: each flag, variable and key of the configuration file with its
meaning, unit, default, and why that default. `--help` and the reference page are made from it.

The guide's names are the guide's, upstream's are upstream's (virtual-kubelet v1.6 and v1.11, in their
meaning); what neither has is ours. How values are read and checked is in settings.py and node_config.py.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable

from kci.kit import logs

TEXT, FILE, FOLDER, BOOLEAN, DURATION, NUMBER = "TEXT", "FILE", "FOLDER", "true|false", "DURATION", "NUMBER"
_WIDTH = 110
_COLUMN = 26


@dataclasses.dataclass(frozen=True)
class Option:
    """`default` is what holds when it is not given, in words or as its value; empty: it is needed."""

    name: str
    means: str
    default: str
    why: str

    @property
    def text(self) -> str:
        return f"{self.means} ({f'default {self.default}' if self.default else 'needed'}: {self.why})"


@dataclasses.dataclass(frozen=True)
class Flag(Option):
    form: str = TEXT
    # A list takes what all of its repetitions say, any other flag the last.
    listed: bool = False


FLAGS = (
    Flag("provider", "who runs the pods; there is one", "kingsoftcloud", "the guide's"),
    Flag(
        "nodename",
        "the node's name in the cluster; no other node may have it",
        "$DEFAULT_NODE_NAME, else virtual-kubelet",
        "the guide's",
    ),
    Flag(
        "cluster-dns",
        "DNS servers' addresses, comma separated, at most 3, for pods with dnsPolicy ClusterFirst",
        "none, such pods get the instance's own",
        "a node cannot know the cluster's",
        listed=True,
    ),
    Flag(
        "virtual-node-dns",
        "DNS servers' addresses, comma separated, at most 3, for pods with dnsPolicy Default",
        "none, such pods get the instance's own",
        "those of its network answer there",
        listed=True,
    ),
    Flag("cluster-domain", "the cluster's DNS domain", "cluster.local", "Kubernetes' and the guide's"),
    Flag(
        "disable-taint",
        "create the node without a taint, so that any pod may come, those of DaemonSets too",
        "false",
        "only pods that tolerate a virtual node should come to it",
        BOOLEAN,
    ),
    Flag(
        "enable-node-lease",
        "use a Lease as the node's heartbeat; false renews the node's status every 10 seconds instead, and "
        "allows one copy of the node only",
        "true",
        "it costs the cluster least, and of two copies one acts",
        BOOLEAN,
    ),
    Flag(
        "provider-config",
        "file with the component configuration, JSON or YAML: see below",
        "none",
        "flags and variables say the rest",
        FILE,
    ),
    Flag(
        "packages",
        "file with the sizes of instances, in JSON as DescribeKciPackages answers",
        "those that the service says it has",
        "it knows them best",
        FILE,
    ),
    Flag(
        "sum-containers-only",
        "leave init containers out of what a pod asks for, as the documentation of sizes does",
        "false",
        "an instance should have what its init containers need as well",
        BOOLEAN,
    ),
    Flag(
        "strict-sizes",
        "refuse a pod whose annotations name a size that there is not",
        "false",
        "it gets the next larger one, and an Event says so",
        BOOLEAN,
    ),
    Flag(
        "kubeconfig",
        "file with the node's identity in the cluster, or an account that may ask for it",
        "$KUBECONFIG, else the pod's ServiceAccount",
        "as upstream",
        FILE,
    ),
    Flag(
        "state-dir",
        "folder to keep the certificates in that the cluster issued to the node",
        "none, they are asked for at each start",
        "a pod of a Deployment has no such place; where a person approves, keep them",
        FOLDER,
    ),
    Flag(
        "client-ca-file",
        "file with the CA of client certificates of the kubelet API (PEM)",
        "$APISERVER_CA_CERT_LOCATION, else what kube-system/extension-apiserver-authentication holds",
        "the cluster knows it; a node's own identity may not read it there",
        FILE,
    ),
    Flag(
        "tls-cert-file",
        "file with the kubelet API's serving certificate (PEM)",
        "$APISERVER_CERT_LOCATION, else asked for in the cluster and renewed",
        "the API server wants one of the cluster's",
        FILE,
    ),
    Flag(
        "tls-private-key-file",
        "file with that certificate's key (PEM)",
        "$APISERVER_KEY_LOCATION",
        "it goes with the certificate",
        FILE,
    ),
    Flag(
        "pod-sync-workers",
        "how many pods are worked on at once, 1 to 1000",
        "32",
        "what our figures are measured with; upstream's is 10",
        NUMBER,
    ),
    Flag(
        "full-resync-period",
        "how often all instances are compared with all pods, at least 1s; changes are seen at once anyhow",
        "1m",
        "upstream's; it finds what no change told of",
        DURATION,
    ),
    Flag(
        "startup-timeout",
        "end with an error if the node is not registered in this time and no other copy of it acts; 0: "
        "try for ever",
        "0",
        "upstream's; a cluster that is away for a while needs no restarts",
        DURATION,
    ),
    Flag(
        "stream-creation-timeout",
        "how long a stream (exec, attach, port-forward) may take to be set up",
        "30s",
        "upstream's and the kubelet's",
        DURATION,
    ),
    Flag(
        "stream-idle-timeout",
        "a stream on which nothing moves for so long is closed",
        "$VKUBELET_STREAM_IDLE_S, else 4h",
        "the kubelet's; upstream's 30s would end a shell that somebody thinks in",
        DURATION,
    ),
    Flag("os", "the node's operating system; there is one", "linux", "instances run nothing else"),
    Flag(
        "metrics-addr",
        "where this program's own metrics are served over HTTP, [host]:port; the path is /metrics",
        "none: they are not served",
        "upstream's :10255 would be open to everybody; what pods use is at the kubelet API alone",
    ),
    Flag("log-level", f"one of {', '.join(logs.LEVELS)}", "info", "each change of a state is one line"),
)

VARIABLES = (
    Option(
        "VKUBELET_POD_IP",
        "IP address: the node's InternalIP, which the kubelet API listens on",
        "",
        "the API server reaches the node there",
    ),
    Option("KUBELET_PORT", "TCP port of the kubelet API", "10250", "the kubelet's"),
    Option(
        "VKUBELET_STREAM_IDLE_S",
        "seconds, as --stream-idle-timeout, which counts before it",
        "14400",
        "the kubelet's four hours",
    ),
    Option(
        "DEFAULT_NODE_NAME", "the node's name where --nodename is not given", "virtual-kubelet", "the guide's"
    ),
    Option("KUBECONFIG", "as --kubeconfig, which counts before it", "none", "see there"),
    Option("APISERVER_CERT_LOCATION", "as --tls-cert-file, which counts before it", "none", "see there"),
    Option(
        "APISERVER_KEY_LOCATION", "as --tls-private-key-file, which counts before it", "none", "see there"
    ),
    Option("APISERVER_CA_CERT_LOCATION", "as --client-ca-file, which counts before it", "none", "see there"),
    Option("VKUBELET_TAINT_KEY", "key of the node's taint", "virtual-kubelet.io/provider", "the guide's"),
    Option("VKUBELET_TAINT_VALUE", "its value", "kingsoftcloud", "the guide's"),
    Option(
        "VKUBELET_TAINT_EFFECT",
        "its effect: NoSchedule, PreferNoSchedule or NoExecute",
        "NoSchedule",
        "the guide's",
    ),
    Option("KCI_REGION", "the region's code", "", "calls are signed for one region"),
    Option(
        "KCI_CLUSTER_ID",
        "the cluster's id, a label's value; of KCE its ClusterId, else of your choice",
        "",
        "it marks the instances of this cluster",
    ),
    Option(
        "KCI_SUBNET_ID",
        "the subnet of pods that name none by annotation",
        "none",
        "a pod then must name one, or is refused",
    ),
    Option(
        "KCI_SECURITY_GROUP_IDS",
        "security groups, comma separated, at most 3, of pods that name none by annotation",
        "none",
        "a pod then must name them, or is refused",
    ),
    Option(
        "KCI_KUBE_PROXY",
        "true or false: pods that do not say it by annotation can reach ClusterIP services",
        "false",
        "the guide's",
    ),
    Option(
        "KCI_CLUSTER_SERVER",
        "the API server's ip:port as instances reach it",
        "found out, from the kubeconfig or the Service default/kubernetes",
        "it is often the same as the node's own",
    ),
    Option(
        "KCI_REQUEST_INTERNAL",
        "present, even empty: calls go to KCI's internal endpoint, for a network without a way out",
        "absent, the public endpoint",
        "the guide's",
    ),
    Option(
        "KCI_ENDPOINT",
        "another KCI endpoint, http(s)://host:port; counts before KCI_REQUEST_INTERNAL",
        "none",
        "Kingsoft Cloud's own are known",
    ),
    Option(
        "VKUBELET_IDENTITY",
        "tells copies of this node apart, of which one acts",
        "the host's name",
        "in a cluster it is the pod's own",
    ),
    Option(
        "VKUBELET_IDENTITY_FILE",
        "file to keep that in instead: for copies on one machine",
        "none",
        "each program that runs gets its own, and the same one after a restart",
    ),
)

# Keys of the file of --provider-config, named as in the component configuration of KCE.
KEYS = (
    Option(
        "taints",
        "list of {key, value, effect}: the node's taints; [] for none",
        "one, from VKUBELET_TAINT_*",
        "the guide's",
    ),
    Option(
        "capacity",
        "cpu (cores), memory and ephemeral-storage (bytes), pods: what the node says it has, as quantities",
        "cpu 1000, memory 4Ti, pods 1000, ephemeral-storage 40Ti",
        "KCI's own limits are elsewhere, so it should not be what ends first",
    ),
    Option("customLabels", "more labels of the node, name: value", "none", "a node needs no more"),
    Option(
        "instanceSettings",
        "annotations that hold for pods which do not set them, such as k8s.ksyun.com/kci-subnet-id",
        "none",
        "a pod says for itself what it wants",
    ),
    Option(
        "kciletKubeconfigPath",
        "file with the kubeconfig that instances are given",
        "the node's own identity, never the account that asked for it",
        "what runs a node's pods needs the rights of that node, and no more",
    ),
)


def epilog(key_variables: Iterable[Option]) -> str:
    return "\n".join(
        (
            "environment:",
            *(_row(one) for one in (*VARIABLES, *key_variables)),
            "",
            "file of --provider-config:",
            *(_row(one) for one in KEYS),
        )
    )


def _row(option: Option) -> str:
    indent = " " * (_COLUMN + 2)
    lines = textwrap.wrap(option.text, _WIDTH - len(indent))
    head = f"  {option.name}"
    if len(option.name) >= _COLUMN:
        return "\n".join((head, *(f"{indent}{line}" for line in lines)))
    return "\n".join((f"{head:{len(indent)}}{lines[0]}", *(f"{indent}{line}" for line in lines[1:])))
