"""The program's flags and environment: the vendor guide's by their names, and what more it needs.

What there is stands in options.py, how the words of the command line are sorted in flags.py. Everything
that is wrong is named at once. A repeated flag is no error: the guide's own manifest repeats
`--cluster-dns`, and a list takes what all of them say.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

from kci.contract import packages
from kci.kit import durations, errors, logs, metrics, sockets
from kci.kube import models
from kci.provider import flags as flags_given
from kci.provider import key_settings, node_config, options, pod_settings
from kci.vnode import node

PUBLIC_ENDPOINT = "https://kci.api.ksyun.com"
INTERNAL_ENDPOINT = "http://internal.api.ksyun.com"
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?\Z")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All that the program is told, checked."""

    node_name: str
    # The node's InternalIP, and where the kubelet API listens.
    node_address: str
    kubelet_port: int
    # Streams on which nothing moves for so long are closed.
    stream_idle_s: float
    stream_creation_s: float
    cluster_dns: tuple[str, ...]
    node_dns: tuple[str, ...]
    cluster_domain: str
    taints: tuple[models.Taint, ...]
    capacity: Mapping[str, str]
    # Of the node, beside those that it always has.
    labels: Mapping[str, str]
    node_lease: bool
    pod_sync_workers: int
    full_resync_s: float
    # 0: no limit.
    startup_timeout_s: float
    # Which copy of the node this is; empty: from the file, or the host's name.
    identity: str
    identity_file: pathlib.Path | None
    # None: the ServiceAccount of the pod that we run in.
    kubeconfig: pathlib.Path | None
    # None: instances get the node's own identity.
    instance_kubeconfig: pathlib.Path | None
    # None: kept in memory alone.
    state_folder: pathlib.Path | None
    # None: the one that the cluster publishes.
    client_ca_file: pathlib.Path | None
    # Both or none: asked for in the cluster.
    tls_cert_file: pathlib.Path | None
    tls_private_key_file: pathlib.Path | None
    log_level: str
    # [host]:port; empty: metrics are not served.
    metrics_address: str
    keys: key_settings.Keys
    region: str
    endpoint: str
    cluster_id: str
    # Empty: each pod names its own by annotation.
    subnet_id: str
    security_group_ids: tuple[str, ...]
    kube_proxy: bool
    # Annotations that stand for what a pod does not say.
    instance_settings: Mapping[str, str]
    # None: the sizes that the service offers.
    table: packages.Table | None
    strict_sizes: bool
    sum_containers_only: bool
    # host:port of the API server as instances reach it; empty: found out.
    cluster_server: str
    # The address of the kubernetes service, which instances cannot be expected to reach.
    service_host: str
    # What is no error and yet not what somebody may expect.
    warnings: tuple[str, ...]


_LISTED = frozenset(flag.name for flag in options.FLAGS if flag.listed)
# What a flag that is not given says; empty: nothing, or an environment variable does.
NOT_GIVEN = {
    "provider": "kingsoftcloud",
    "cluster-domain": "cluster.local",
    "disable-taint": "false",
    "enable-node-lease": "true",
    "strict-sizes": "false",
    "sum-containers-only": "false",
    "pod-sync-workers": "32",
    "full-resync-period": "1m",
    "startup-timeout": "0",
    "stream-creation-timeout": "30s",
    "os": "linux",
    "log-level": "info",
}
_MOST_WORKERS = 1000


_TLS_FILES = {
    "client-ca-file": ("APISERVER_CA_CERT_LOCATION", "CA of the kubelet API's clients"),
    "tls-cert-file": ("APISERVER_CERT_LOCATION", "kubelet API's serving certificate"),
    "tls-private-key-file": ("APISERVER_KEY_LOCATION", "serving certificate's private key"),
}


class _Problems(list[str]):
    """Collects what is wrong while values are read; each reader returns something usable regardless."""

    def text(self, environment: Mapping[str, str], name: str, why: str) -> str:
        value = environment.get(name, "").strip()
        if not value:
            self.append(f"the environment variable {name} is missing: {why}")
        return value

    def boolean(self, name: str, value: str) -> bool:
        if value not in _TRUE | _FALSE:
            self.append(f"{name} is {value!r}: write true or false")
        return value in _TRUE

    def duration_s(self, name: str, value: str, *, least_s: float) -> float:
        try:
            seconds = durations.to_seconds(value)
        except ValueError as error:
            self.append(f"{name}: {error}")
            return least_s
        if seconds < least_s:
            self.append(f"{name} is {value}: at least {least_s:g}s")
        return seconds

    def file(self, name: str, value: str, what: str) -> pathlib.Path:
        if not value:
            self.append(f"{name} is missing: it names the {what}")
        elif not pathlib.Path(value).is_file():
            self.append(f"{name} names {value}, which is no file that can be read: it should be the {what}")
        return pathlib.Path(value)


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError with everything that is wrong; prints help and exits for --help."""
    settings, problems = read(arguments, environment)
    if problems:
        raise errors.SettingsError(problems)
    return settings


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The same with what is wrong beside it; then some of the values are not what was meant."""
    problems = _Problems()
    warnings: list[str] = []
    flags = _parse_flags(arguments, problems, warnings)
    config = (
        node_config.read(flags["provider-config"], problems)
        if flags["provider-config"]
        else node_config.NodeConfig()
    )
    _check_fixed(flags, problems)
    tls_files = {name: _tls_file(problems, flags, environment, name) for name in _TLS_FILES}
    _check_pair(tls_files["tls-cert-file"], tls_files["tls-private-key-file"], problems)
    kubeconfig = flags["kubeconfig"] or environment.get("KUBECONFIG", "").strip()
    if not kubeconfig and not environment.get("KUBERNETES_SERVICE_HOST"):
        problems.append(
            "there is no cluster to join: give --kubeconfig with the node's identity (only in a pod is there "
            "one without it)"
        )
    settings = Settings(
        metrics_address=flags["metrics-addr"],
        node_name=_node_name(flags["nodename"], environment, problems),
        node_address=_node_address(environment, problems),
        kubelet_port=_port(environment, problems),
        stream_idle_s=_stream_idle_s(flags["stream-idle-timeout"], environment, problems),
        stream_creation_s=problems.duration_s(
            "--stream-creation-timeout", flags["stream-creation-timeout"], least_s=1
        ),
        cluster_dns=pod_settings.dns_servers("--cluster-dns", flags["cluster-dns"], problems),
        node_dns=pod_settings.dns_servers("--virtual-node-dns", flags["virtual-node-dns"], problems),
        cluster_domain=pod_settings.cluster_domain(flags["cluster-domain"], problems),
        taints=pod_settings.taints(
            environment,
            config.taints,
            problems,
            is_disabled=problems.boolean("--disable-taint", flags["disable-taint"]),
        ),
        capacity={**node.DEFAULT_CAPACITY, **config.capacity},
        labels=config.labels,
        node_lease=problems.boolean("--enable-node-lease", flags["enable-node-lease"]),
        pod_sync_workers=_workers(flags["pod-sync-workers"], problems),
        full_resync_s=problems.duration_s("--full-resync-period", flags["full-resync-period"], least_s=1),
        startup_timeout_s=problems.duration_s("--startup-timeout", flags["startup-timeout"], least_s=0),
        identity=environment.get("VKUBELET_IDENTITY", "").strip(),
        identity_file=_identity_file(environment),
        kubeconfig=problems.file("--kubeconfig", kubeconfig, "node's identity") if kubeconfig else None,
        instance_kubeconfig=config.instance_kubeconfig,
        state_folder=pathlib.Path(flags["state-dir"]) if flags["state-dir"] else None,
        client_ca_file=tls_files["client-ca-file"],
        tls_cert_file=tls_files["tls-cert-file"],
        tls_private_key_file=tls_files["tls-private-key-file"],
        log_level=flags["log-level"],
        keys=key_settings.read(environment, problems),
        region=problems.text(environment, "KCI_REGION", "set the region's code"),
        endpoint=_endpoint(environment, problems),
        cluster_id=_cluster_id(environment, problems),
        subnet_id=environment.get("KCI_SUBNET_ID", "").strip(),
        security_group_ids=pod_settings.security_groups(
            environment.get("KCI_SECURITY_GROUP_IDS", ""), problems
        ),
        kube_proxy=problems.boolean(
            "KCI_KUBE_PROXY", environment.get("KCI_KUBE_PROXY", "").strip() or "false"
        ),
        instance_settings=config.instance_settings,
        table=_table(flags["packages"], problems),
        strict_sizes=problems.boolean("--strict-sizes", flags["strict-sizes"]),
        sum_containers_only=problems.boolean("--sum-containers-only", flags["sum-containers-only"]),
        cluster_server=_cluster_server(environment, problems),
        service_host=environment.get("KUBERNETES_SERVICE_HOST", ""),
        warnings=tuple(warnings),
    )
    return settings, problems


def _parse_flags(arguments: Sequence[str], problems: _Problems, warnings: list[str]) -> dict[str, str]:
    given = flags_given.read(arguments, problems, warnings)
    _warn(given, warnings)
    return {name: _told(name, values) for name, values in given.items()}


def _warn(given: Mapping[str, list[str]], warnings: list[str]) -> None:
    if len(given["cluster-dns"]) > 1:
        warnings.append(
            "--cluster-dns is given more than once: all its addresses are for pods with dnsPolicy "
            "ClusterFirst; those for dnsPolicy Default are given by --virtual-node-dns"
        )


def _told(name: str, values: list[str]) -> str:
    if not values:
        return NOT_GIVEN.get(name, "")
    return ",".join(values) if name in _LISTED else values[-1].strip()


def _check_fixed(flags: Mapping[str, str], problems: _Problems) -> None:
    """Flags that choose among what there is, of which some have one value only."""
    if flags["provider"] != "kingsoftcloud":
        problems.append(f"--provider is {flags['provider']!r}: this program has only kingsoftcloud")
    if flags["os"].lower() != "linux":
        problems.append(f"--os is {flags['os']!r}: instances run linux only")
    if flags["log-level"] not in logs.LEVELS:
        problems.append(f"--log-level is {flags['log-level']!r}: use one of {', '.join(logs.LEVELS)}")
    if wrong := metrics.check_address(flags["metrics-addr"]):
        problems.append(f"--metrics-addr {wrong}")


def _node_name(flag: str, environment: Mapping[str, str], problems: _Problems) -> str:
    given = environment.get("DEFAULT_NODE_NAME", "").strip()
    name = flag or given or "virtual-kubelet"
    if not _NODE_NAME.match(name):
        what = "--nodename" if flag else "DEFAULT_NODE_NAME"
        problems.append(f"{what} is {name!r}: use at most 63 lower-case letters, digits, '-' and '.'")
    return name


def _workers(value: str, problems: _Problems) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= _MOST_WORKERS:
        problems.append(f"--pod-sync-workers is {value!r}: write a number from 1 to {_MOST_WORKERS}")
        return 1
    return int(value)


def _tls_file(
    problems: _Problems, flags: Mapping[str, str], environment: Mapping[str, str], name: str
) -> pathlib.Path | None:
    variable, what = _TLS_FILES[name]
    value = flags[name] or environment.get(variable, "").strip()
    return problems.file(f"--{name}", value, what) if value else None


def _check_pair(certificate: pathlib.Path | None, key: pathlib.Path | None, problems: _Problems) -> None:
    for name, given, other in (
        ("tls-cert-file", certificate, key),
        ("tls-private-key-file", key, certificate),
    ):
        if given is None and other is not None:
            problems.append(
                f"--{name} is missing: it names the {_TLS_FILES[name][1]}; give both, or neither, and the "
                "node asks the cluster for its certificate"
            )


def _node_address(environment: Mapping[str, str], problems: _Problems) -> str:
    value = problems.text(environment, "VKUBELET_POD_IP", "set the node's own IP address")
    if value and not pod_settings.is_address(value):
        problems.append(f"VKUBELET_POD_IP is {value!r}, which is no IP address")
    return value


def _identity_file(environment: Mapping[str, str]) -> pathlib.Path | None:
    value = environment.get("VKUBELET_IDENTITY_FILE", "").strip()
    return pathlib.Path(value) if value else None


def _port(environment: Mapping[str, str], problems: _Problems) -> int:
    value = environment.get("KUBELET_PORT", "").strip() or "10250"
    if not _is_port(value):
        problems.append(f"KUBELET_PORT is {value!r}, which is no TCP port")
        return 0
    return int(value)


def _is_port(value: str) -> bool:
    return value.isdecimal() and 0 < int(value) < 65536


def _stream_idle_s(flag: str, environment: Mapping[str, str], problems: _Problems) -> float:
    if flag:
        return problems.duration_s("--stream-idle-timeout", flag, least_s=1)
    value = environment.get("VKUBELET_STREAM_IDLE_S", "").strip() or f"{sockets.STREAM_IDLE_S:.0f}"
    if not value.isdecimal() or int(value) == 0:
        problems.append(f"VKUBELET_STREAM_IDLE_S is {value!r}, which is no number of seconds")
        return sockets.STREAM_IDLE_S
    return float(value)


def _cluster_id(environment: Mapping[str, str], problems: _Problems) -> str:
    value = problems.text(environment, "KCI_CLUSTER_ID", "set the cluster's id")
    if value and not node_config.LABEL_VALUE.match(value):
        problems.append(
            f"KCI_CLUSTER_ID is {value!r}: use at most 63 letters, digits, '-', '_' and '.', with a letter "
            "or digit at both ends"
        )
    return value


def _endpoint(environment: Mapping[str, str], problems: _Problems) -> str:
    value = environment.get("KCI_ENDPOINT", "").strip().rstrip("/")
    if not value:
        return INTERNAL_ENDPOINT if "KCI_REQUEST_INTERNAL" in environment else PUBLIC_ENDPOINT
    if not re.match(r"(https?://)?[^/\s@]+\Z", value):
        problems.append(f"KCI_ENDPOINT is {value!r}: write it as https://host or http://host:port")
    return value


def _table(name: str, problems: _Problems) -> packages.Table | None:
    if not name:
        return None
    try:
        return packages.read_table(pathlib.Path(name).read_bytes(), name)
    except (OSError, errors.UserError) as error:
        problems.append(f"--packages: {error}")
        return None


def _cluster_server(environment: Mapping[str, str], problems: _Problems) -> str:
    value = environment.get("KCI_CLUSTER_SERVER", "").strip().rstrip("/")
    if value and not re.match(r"(https://)?(\[[0-9a-fA-F:]+\]|[^/\s:]+)(:\d{1,5})?\Z", value):
        problems.append(f"KCI_CLUSTER_SERVER is {value!r}: write it as ip:port")
    return value
