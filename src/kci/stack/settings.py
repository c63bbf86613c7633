"""The settings of a stack: each option's meaning, checked once, all problems named together."""

from __future__ import annotations

import enum
import ipaddress
import pathlib
import re
import typing
from collections.abc import Mapping
from typing import Annotated

import msgspec

from kci.kit import environment, errors, logs

DEFAULT_STATE_DIR = pathlib.Path("/var/lib/kci")
# A unix socket's path ends at 107 bytes, and ours lie up to 40 bytes below the state folder.
MAX_STATE_DIR_LENGTH = 64
SMALLEST_POD_PREFIX = 28

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_NETNS = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,63}")


class Runtime(enum.StrEnum):
    """Which low-level runtime containerd starts containers with."""

    AUTO = "auto"
    RUNC = "runc"
    CRUN = "crun"


class Images(enum.StrEnum):
    """Where images of public registries come from."""

    AUTO = "auto"
    PUBLIC = "public"
    LOCAL = "local"


class Dns(enum.StrEnum):
    """Who answers pods of dnsPolicy ClusterFirst."""

    AUTO = "auto"
    OWN = "own"
    CLUSTER = "cluster"


def _doc(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What `kci up` was asked for. Empty or 0 means: the stack chooses once and keeps its choice."""

    state_dir: Annotated[
        str, _doc("Folder that holds all state of this stack; several stacks need several folders.")
    ] = str(DEFAULT_STATE_DIR)
    netns: Annotated[
        str,
        _doc(
            "Network namespace to run in; made if missing, and then removed by `kci down`. Default: this one."
        ),
    ] = ""
    kubeconfig: Annotated[
        str,
        _doc(
            "Use the cluster of this kubeconfig (as its administrator) instead of a control plane of our own."
        ),
    ] = ""
    cri_endpoint: Annotated[
        str,
        _doc(
            "Socket of a containerd to use instead of our own. A kubelet on the same one would kill our pods."
        ),
    ] = ""
    node_name: Annotated[str, _doc("Name of the virtual node; the vendor's default.")] = "virtual-kubelet"
    cluster_domain: Annotated[str, _doc("DNS domain of the cluster; Kubernetes' default.")] = "cluster.local"
    pod_cidr: Annotated[
        str,
        _doc("Addresses of pods; the first is the gateway. Default: a /16 that no route of the machine has."),
    ] = ""
    service_cidr: Annotated[
        str,
        _doc(
            "Addresses of services of our own control plane. Default: a /16 that no route of the machine has."
        ),
    ] = ""
    api_port: Annotated[int, _doc("Port of our API server on the gateway address; Kubernetes' default.")] = (
        6443
    )
    kubelet_port: Annotated[
        int, _doc("Port of the node's kubelet API on the gateway address; kubelet's default.")
    ] = 10250
    kci_port: Annotated[
        int,
        _doc(
            "Port of the KCI service on the gateway address; 80 has our own cluster DNS answer KCI's "
            "internal name, internal.api.ksyun.com, with that address."
        ),
    ] = 8180
    runtime: Annotated[
        Runtime,
        _doc("Low-level runtime; auto takes crun 1.21 or newer, which starts pods faster, or else runc."),
    ] = Runtime.AUTO
    images: Annotated[
        Images,
        _doc("Where public images come from: public registries, our local one, or whichever answers now."),
    ] = Images.AUTO
    dns: Annotated[
        Dns,
        _doc(
            "Cluster DNS: a CoreDNS of our own on the gateway address, or what the cluster has as its "
            "Service kube-system/kube-dns; auto takes our own with a control plane of our own."
        ),
    ] = Dns.AUTO
    metrics_server: Annotated[
        bool,
        _doc(
            "Run metrics-server with our own control plane, for `kubectl top` and HorizontalPodAutoscalers; "
            "its first start builds it."
        ),
    ] = False
    disable_taint: Annotated[
        bool, _doc("Register the node without its taint, so that any pod may land on it.")
    ] = False
    kube_proxy: Annotated[
        bool,
        _doc(
            "The node's pods reach ClusterIP services unless their annotation says otherwise, as with "
            "KCI_KUBE_PROXY=true."
        ),
    ] = False
    node_image: Annotated[
        bool,
        _doc(
            "Serve the virtual node's image too, under our name and the guide's, from the local registry; "
            "built once, which needs a Python package index."
        ),
    ] = False
    audit: Annotated[
        bool,
        _doc(
            "Have our own API server tell each write to pods, nodes and Leases, with its answer, and what "
            "nodes and kube-system's accounts ask for, in logs/audit.jsonl."
        ),
    ] = False
    log_level: Annotated[str, _doc(f"Level of our programs' logs: {', '.join(logs.LEVELS)}.")] = "info"

    @property
    def own_control_plane(self) -> bool:
        return not self.kubeconfig

    @property
    def own_dns(self) -> bool:
        return self.own_control_plane and self.dns is not Dns.CLUSTER

    @property
    def own_containerd(self) -> bool:
        return not self.cri_endpoint


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says: where things are found and cached."""

    path: str
    home: str
    cache_dir: str
    # Handed to `go build` as they are.
    variables: Mapping[str, str]
    # Proxies for image pulls, handed to containerd alone.
    proxies: Mapping[str, str]


def describe(option: str) -> str:
    """The meaning of an option, for help texts and the reference page."""
    hint = typing.get_type_hints(Settings, include_extras=True)[option]
    return str(typing.get_args(hint)[1].description)


def read_machine() -> Machine:
    variables = environment.read()
    home = variables.get("HOME") or "/root"
    return Machine(
        path=variables.get("PATH", "")
        + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin",
        home=home,
        cache_dir=str(pathlib.Path(variables.get("XDG_CACHE_HOME") or f"{home}/.cache") / "kci"),
        variables=variables,
        proxies={name: value for name, value in variables.items() if name.lower().endswith("_proxy")},
    )


def checked(settings: Settings) -> Settings:
    """The settings with absolute paths; SettingsError names everything that is wrong with them."""
    settings = msgspec.structs.replace(
        settings,
        state_dir=_absolute(settings.state_dir),
        kubeconfig=_absolute(settings.kubeconfig),
        cri_endpoint=_absolute(settings.cri_endpoint.removeprefix("unix://")),
    )
    problems = [*_name_problems(settings), *_range_problems(settings), *_port_problems(settings)]
    if problems:
        raise errors.SettingsError(problems)
    return settings


def _absolute(path: str) -> str:
    return str(pathlib.Path(path).expanduser().absolute()) if path else ""


def _name_problems(settings: Settings) -> list[str]:
    problems = []
    if len(settings.state_dir.encode()) > MAX_STATE_DIR_LENGTH:
        problems.append(
            f"--state-dir {settings.state_dir} is longer than {MAX_STATE_DIR_LENGTH} bytes, "
            "too long for unix sockets in it"
        )
    if settings.netns and not _NETNS.fullmatch(settings.netns):
        problems.append(
            f"--netns {settings.netns!r} is not a namespace's name (letters, digits, '-', '_', '.')"
        )
    if not _NAME.fullmatch(settings.node_name):
        problems.append(
            f"--node-name {settings.node_name!r} is not a node's name (lower-case letters, digits, '-', '.')"
        )
    if not _NAME.fullmatch(settings.cluster_domain):
        problems.append(f"--cluster-domain {settings.cluster_domain!r} is not a domain")
    if settings.kubeconfig and not pathlib.Path(settings.kubeconfig).is_file():
        problems.append(f"--kubeconfig {settings.kubeconfig} is not a file")
    if settings.cri_endpoint and not pathlib.Path(settings.cri_endpoint).is_socket():
        problems.append(f"--cri-endpoint {settings.cri_endpoint} is not a socket")
    if settings.dns is Dns.OWN and settings.kubeconfig:
        problems.append(
            "--dns own is for a control plane of our own: it needs to read all Services of the cluster"
        )
    if settings.metrics_server and settings.kubeconfig:
        problems.append(
            "--metrics-server is for a control plane of our own: deploy it in the cluster of --kubeconfig"
        )
    if settings.log_level not in logs.LEVELS:
        problems.append(f"--log-level {settings.log_level!r} is none of {', '.join(logs.LEVELS)}")
    return problems


def _range_problems(settings: Settings) -> list[str]:
    problems = []
    ranges = {}
    for option, text in (("--pod-cidr", settings.pod_cidr), ("--service-cidr", settings.service_cidr)):
        if not text:
            continue
        try:
            ranges[option] = ipaddress.IPv4Network(text)
        except ValueError as error:
            problems.append(f"{option} {text!r} is not an IPv4 range: {error}")
    for option, network in ranges.items():
        if network.prefixlen > SMALLEST_POD_PREFIX or network.prefixlen < 12:
            problems.append(f"{option} {network} must be between a /12 and a /{SMALLEST_POD_PREFIX}")
    if len(ranges) == 2 and ranges["--pod-cidr"].overlaps(ranges["--service-cidr"]):
        problems.append(f"--pod-cidr {settings.pod_cidr} and --service-cidr {settings.service_cidr} overlap")
    if settings.service_cidr and settings.kubeconfig:
        problems.append("--service-cidr is for a control plane of our own, and --kubeconfig names another")
    return problems


def _port_problems(settings: Settings) -> list[str]:
    ports = {
        "--api-port": settings.api_port,
        "--kubelet-port": settings.kubelet_port,
        "--kci-port": settings.kci_port,
    }
    problems = [
        f"{option} {port} is not between 1 and 65535"
        for option, port in ports.items()
        if not 0 < port < 65536
    ]
    if len(set(ports.values())) < len(ports):
        problems.append(
            "--api-port, --kubelet-port and --kci-port must differ: they share the gateway address"
        )
    return problems
