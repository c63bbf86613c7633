"""The rows of the vendor guide's tables and lists: each has an id, what it promises in our words, and what
of it is left for later. Tests name the id: `@pytest.mark.guide("flag --cluster-dns")`.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """One promise of the guide. `later` says what of it is not there yet, and where it will be."""

    id: str
    text: str
    later: str = ""


FLAGS = (
    Row("flag --provider", "who runs the pods: kingsoftcloud"),
    Row("flag --nodename", "the node's name, virtual-kubelet unless given"),
    Row("flag --cluster-dns", "DNS servers of pods with dnsPolicy ClusterFirst; may be repeated"),
    Row("flag --virtual-node-dns", "DNS servers of pods with dnsPolicy Default"),
    Row("flag --cluster-domain", "the cluster's domain, cluster.local unless given"),
    Row("flag --disable-taint", "the node without its taint: every new pod may come"),
    Row("flag --enable-node-lease", "a Lease as the node's heartbeat"),
    Row("flag --pod-sync-workers", "upstream's: how many pods are worked on at once"),
    Row("flag --full-resync-period", "upstream's: how often everything is looked at again"),
    Row(
        "flag --metrics-addr",
        "upstream's: where the metrics are served",
        "this program's own; off unless given",
    ),
    Row("flag --startup-timeout", "upstream's: how long the node may take to start"),
    Row("flag --stream-idle-timeout", "upstream's: when a stream on which nothing moves is closed"),
    Row("flag --stream-creation-timeout", "upstream's: how long a stream may take to open"),
    Row("flag --klog.*", "upstream's logger's: passed over with a warning"),
    Row("flag --os", "upstream's: the node's operating system"),
    Row("flag --provider-config", "upstream's: the file with the provider's configuration"),
    Row("flag --kubeconfig", "upstream's: the file with the node's identity"),
)

ENVIRONMENT = (
    Row("env VKUBELET_POD_IP", "the node's InternalIP, where its kubelet API listens"),
    Row("env KCI_ACCESS_KEY", "the key that signs, unless TEMP_AKSK_CM is given"),
    Row("env KCI_SECRET_KEY", "its secret, unless TEMP_AKSK_CM is given"),
    Row("env TEMP_AKSK_CM", "the ConfigMap in kube-system with temporary keys"),
    Row("env TEMP_AKSK_SECRET", "Kingsoft's key provider's: the same in a Secret"),
    Row("env AKSK_FILE_PATH", "Kingsoft's key provider's: a folder with the keys"),
    Row("env AK", "Kingsoft's key provider's: with SK the key pair, where there is no other"),
    Row("env SK", "Kingsoft's key provider's: the other of that pair"),
    Row("env SECURITY_TOKEN", "Kingsoft's key provider's: goes with AK and SK"),
    Row("env AKSK_ENCRYPT", "Kingsoft's key provider's: whether SK is encrypted"),
    Row("env AKSK_CIPHER_KEY", "Kingsoft's key provider's: opens an encrypted key"),
    Row("env KCI_CLUSTER_ID", "the cluster's id; needed"),
    Row("env KCI_REGION", "the region's code; needed"),
    Row("env KCI_SUBNET_ID", "the subnet of pods that name none"),
    Row("env KCI_SECURITY_GROUP_IDS", "the security groups, at most 3, of pods that name none"),
    Row("env KCI_KUBE_PROXY", "whether pods of this node reach ClusterIP services"),
    Row("env KCI_CLUSTER_SERVER", "ip:port of the API server as instances reach it"),
    Row("env KCI_REQUEST_INTERNAL", "present, even empty: calls go to the internal endpoint"),
    Row("env KCI_ENDPOINT", "ours: another endpoint, which overrides the above"),
    Row("env KUBELET_PORT", "upstream's: the kubelet API's port"),
    Row("env KUBECONFIG", "upstream's: the file with the node's identity"),
    Row("env DEFAULT_NODE_NAME", "upstream's: the node's name unless --nodename is given"),
    Row("env APISERVER_CERT_LOCATION", "upstream's: the kubelet API's certificate"),
    Row("env APISERVER_KEY_LOCATION", "upstream's: its key"),
    Row("env APISERVER_CA_CERT_LOCATION", "upstream's: the CA of the kubelet API's clients"),
    Row("env VKUBELET_TAINT_KEY", "upstream's: the taint's key"),
    Row("env VKUBELET_TAINT_VALUE", "upstream's: the taint's value"),
    Row("env VKUBELET_TAINT_EFFECT", "upstream's: the taint's effect"),
)

ANNOTATIONS = (
    Row("annotation kci-instance-cpu", "the instance's cores; together with the memory"),
    Row("annotation kci-instance-memory", "the instance's memory in GiB; together with the cores"),
    Row("annotation kci-security-group-id", "1 to 3 security groups instead of the node's"),
    Row("annotation kci-subnet-id", "another subnet than the node's"),
    Row("annotation kci-kube-proxy-enabled", "whether the pod reaches ClusterIP services"),
    Row("annotation ingress-bandwidth", "a limit of what comes in; G, M, k or bits"),
    Row("annotation egress-bandwidth", "a limit of what goes out; G, M, k or bits"),
    Row("annotation kci-host-aliases", "host names of the instance's machine, in the pod's /etc/hosts"),
    Row("annotation kci-retain-ip", "ours: the next pod of the same name gets the same address"),
    Row("annotation kci-retain-ip-hours", "ours: how long the address is kept, 24 hours unless given"),
    Row("annotation kci-instance-id", "ours, written back: the instance"),
    Row("annotation kci-instance-spec", "ours, written back: the granted size"),
)

CONFIGURATION = (
    Row("config taints", "the node's taints"),
    Row("config capacity", "what the node says it has"),
    Row("config customLabels", "more labels of the node"),
    Row("config instanceSettings", "annotations of pods that do not set them"),
    Row("config kciletKubeconfigPath", "the kubeconfig that instances are given"),
)

LIMITS = (
    Row("limit DaemonSet", "pods of a DaemonSet are refused"),
    Row("limit hostPath", "refused"),
    Row("limit privileged", "refused"),
    Row("limit probes", "lifted: liveness and readiness probes run, startup probes too"),
    Row("limit initContainers", "lifted: they run, in order"),
    Row("limit NodePort", "no field of a pod; the documentation says what works"),
    Row("limit hostNetwork", "refused"),
    Row("limit hostPID", "ours: refused"),
    Row("limit hostIPC", "ours: refused"),
    Row("limit hostPort", "ours: refused"),
    Row("limit sizes", "an instance has one of the sizes that there are"),
    Row("limit securityGroups", "at most 3"),
    Row("limit containers", "lifted: more than 5 run, with a warning that the real cloud may refuse them"),
)

FORM = (
    Row("form taint", "the node's taint, virtual-kubelet.io/provider=kingsoftcloud:NoSchedule"),
    Row("form node", "role agent, label type=virtual-kubelet, the version's form"),
    Row("form tolerations", "the guide's two ways to come to the node schedule as written"),
    Row("form console", "the list of instances and each one's page, in a terminal"),
    Row(
        "form deployment",
        "the guide's ServiceAccount, ClusterRoleBinding and Deployment as written",
    ),
    Row("form image", "the virtual node as an image"),
    Row("form chart", "the virtual node as a Helm chart and a Kustomize base"),
)

TABLES: dict[str, tuple[Row, ...]] = {
    "Flags": FLAGS,
    "Environment": ENVIRONMENT,
    "Annotations": ANNOTATIONS,
    "Configuration file": CONFIGURATION,
    "Limits": LIMITS,
    "How it looks and is deployed": FORM,
}
