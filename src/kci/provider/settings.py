"""The program's flags and environment: the vendor guide's by their names, and what more it needs.

Everything that is wrong is named at once. Boolean flags are as Go's: `--flag` or `--flag=false`, never
`--flag false`. A repeated flag is no error: the guide's own manifest repeats `--cluster-dns`, and a list
takes what all of them say.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from kci.kit import errors, logs, secret, sockets

PUBLIC_ENDPOINT = "https://kci.api.ksyun.com"
INTERNAL_ENDPOINT = "http://internal.api.ksyun.com"
MAX_SECURITY_GROUPS = 3
_LABEL_VALUE = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9._]{0,61}[a-zA-Z0-9])?\Z")
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
    cluster_dns: tuple[str, ...]
    node_dns: tuple[str, ...]
    cluster_domain: str
    taint: bool
    node_lease: bool
    # Which copy of the node this is; empty: from the file, or the host's name.
    identity: str
    identity_file: pathlib.Path | None
    # None: the ServiceAccount of the pod that we run in.
    kubeconfig: pathlib.Path | None
    client_ca_file: pathlib.Path
    tls_cert_file: pathlib.Path
    tls_private_key_file: pathlib.Path
    log_level: str
    access_key: str
    secret_key: secret.Secret
    region: str
    endpoint: str
    cluster_id: str
    # Empty: each pod names its own by annotation.
    subnet_id: str
    security_group_ids: tuple[str, ...]
    kube_proxy: bool
    # host:port of the API server as instances reach it; empty: found out.
    cluster_server: str
    # The address of the kubernetes service, which instances cannot be expected to reach.
    service_host: str


@dataclasses.dataclass(frozen=True)
class _Flag:
    name: str
    help: str
    default: str = ""
    boolean: bool = False
    listed: bool = False


_FLAGS = (
    _Flag("provider", "who runs the pods; there is one, kingsoftcloud (the default)", "kingsoftcloud"),
    _Flag(
        "nodename",
        "the node's name in the cluster; default virtual-kubelet, as the guide's",
        "virtual-kubelet",
    ),
    _Flag(
        "cluster-dns",
        "DNS servers, comma separated, for pods with dnsPolicy ClusterFirst; default none, such pods "
        "then get the machine's",
        listed=True,
    ),
    _Flag(
        "virtual-node-dns",
        "DNS servers, comma separated, for pods with dnsPolicy Default; default none: the instance's own",
        listed=True,
    ),
    _Flag(
        "cluster-domain", "the cluster's DNS domain; default cluster.local, as Kubernetes'", "cluster.local"
    ),
    _Flag(
        "disable-taint",
        "create the node without its taint virtual-kubelet.io/provider=kingsoftcloud:NoSchedule; default "
        "false, so that only pods that tolerate it come",
        "false",
        boolean=True,
    ),
    _Flag(
        "enable-node-lease",
        "use a Lease as the node's heartbeat; default true, as it costs the cluster least; false renews "
        "the node's status every 10 seconds instead",
        "true",
        boolean=True,
    ),
    _Flag("kubeconfig", "file with the node's identity; default $KUBECONFIG, else the pod's ServiceAccount"),
    _Flag(
        "client-ca-file",
        "file with the CA of client certificates of the kubelet API (PEM); needed, or nobody could be "
        "told apart; default $APISERVER_CA_CERT_LOCATION",
    ),
    _Flag(
        "tls-cert-file",
        "file with the kubelet API's serving certificate (PEM); needed; default $APISERVER_CERT_LOCATION",
    ),
    _Flag(
        "tls-private-key-file",
        "file with that certificate's key (PEM); needed; default $APISERVER_KEY_LOCATION",
    ),
    _Flag("log-level", f"one of {', '.join(logs.LEVELS)}; default info", "info"),
)

_EPILOG = """environment:
  VKUBELET_POD_IP         the node's InternalIP and the address that the kubelet API listens on (needed)
  KUBELET_PORT            the kubelet API's TCP port; default 10250, as the kubelet's
  VKUBELET_STREAM_IDLE_S  seconds after which a stream (exec, attach, port-forward) on which nothing moves is
                          closed; default 14400, as the kubelet's
  KCI_ACCESS_KEY, KCI_SECRET_KEY   the key pair that signs KCI calls (needed)
  KCI_REGION              region code (needed)
  KCI_CLUSTER_ID          the cluster's id (needed); marks the instances of this cluster
  KCI_SUBNET_ID           default subnet; without it each pod names one by annotation
  KCI_SECURITY_GROUP_IDS  default security groups, comma separated, at most 3; likewise
  KCI_KUBE_PROXY          true: pods can reach ClusterIP services; default false, as the guide's
  KCI_CLUSTER_SERVER      the API server's ip:port as instances reach it; default: found out
  VKUBELET_IDENTITY       tells copies of this node apart, of which one acts; default: the host's name, which
                          is the pod's own in a cluster
  VKUBELET_IDENTITY_FILE  file to keep that in instead: for copies on one machine; each program that runs
                          gets its own, and the same one after a restart
  KCI_REQUEST_INTERNAL    present, even empty: use KCI's internal endpoint
  KCI_ENDPOINT            another KCI endpoint, http(s)://host:port; overrides the above
  TEMP_AKSK_CM            ConfigMap with temporary keys: comes with a later release
"""


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print, so that it is named together with all else."""

    def error(self, message: str) -> NoReturn:
        raise errors.SettingsError([message])


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

    def addresses(self, name: str, value: str, *, most: int) -> tuple[str, ...]:
        parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        for part in parts:
            if not _is_address(part):
                self.append(f"{name} has {part!r}, which is no IP address")
        if len(parts) > most:
            self.append(f"{name} has {len(parts)} addresses: at most {most} are used")
        return parts

    def file(self, name: str, value: str, what: str) -> pathlib.Path:
        if not value:
            self.append(f"{name} is missing: it names the {what}")
        elif not pathlib.Path(value).is_file():
            self.append(f"{name} names {value}, which is no file that can be read: it should be the {what}")
        return pathlib.Path(value)


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError with everything that is wrong; prints help and exits for --help."""
    problems = _Problems()
    flags = _parse_flags(arguments, problems)
    if flags["provider"] != "kingsoftcloud":
        problems.append(f"--provider is {flags['provider']!r}: this program has only kingsoftcloud")
    if flags["log-level"] not in logs.LEVELS:
        problems.append(f"--log-level is {flags['log-level']!r}: use one of {', '.join(logs.LEVELS)}")
    if not _NODE_NAME.match(flags["nodename"]):
        problems.append(
            f"--nodename is {flags['nodename']!r}: use at most 63 lower-case letters, digits, '-' and '.'"
        )
    access_key, secret_key = _keys(environment, problems)
    kubeconfig = flags["kubeconfig"] or environment.get("KUBECONFIG", "")
    settings = Settings(
        node_name=flags["nodename"],
        node_address=_node_address(environment, problems),
        kubelet_port=_port(environment, problems),
        stream_idle_s=_stream_idle_s(environment, problems),
        cluster_dns=problems.addresses("--cluster-dns", flags["cluster-dns"], most=3),
        node_dns=problems.addresses("--virtual-node-dns", flags["virtual-node-dns"], most=3),
        cluster_domain=flags["cluster-domain"].strip("."),
        taint=not problems.boolean("--disable-taint", flags["disable-taint"]),
        node_lease=problems.boolean("--enable-node-lease", flags["enable-node-lease"]),
        identity=environment.get("VKUBELET_IDENTITY", "").strip(),
        identity_file=_identity_file(environment),
        kubeconfig=problems.file("--kubeconfig", kubeconfig, "node's identity") if kubeconfig else None,
        client_ca_file=_tls_file(problems, flags, environment, "client-ca-file"),
        tls_cert_file=_tls_file(problems, flags, environment, "tls-cert-file"),
        tls_private_key_file=_tls_file(problems, flags, environment, "tls-private-key-file"),
        log_level=flags["log-level"],
        access_key=access_key,
        secret_key=secret_key,
        region=problems.text(environment, "KCI_REGION", "set the region's code"),
        endpoint=_endpoint(environment, problems),
        cluster_id=_cluster_id(environment, problems),
        subnet_id=environment.get("KCI_SUBNET_ID", "").strip(),
        security_group_ids=_security_groups(environment, problems),
        kube_proxy=problems.boolean(
            "KCI_KUBE_PROXY", environment.get("KCI_KUBE_PROXY", "").strip() or "false"
        ),
        cluster_server=_cluster_server(environment, problems),
        service_host=environment.get("KUBERNETES_SERVICE_HOST", ""),
    )
    if problems:
        raise errors.SettingsError(problems)
    return settings


def _parse_flags(arguments: Sequence[str], problems: _Problems) -> dict[str, str]:
    parser = _Parser(
        prog="virtual-kubelet",
        description="A Kubernetes node whose pods run on Kingsoft Cloud's container instances.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag in _FLAGS:
        parser.add_argument(
            f"--{flag.name}",
            dest=flag.name,
            metavar="true|false" if flag.boolean else "TEXT",
            action="append",
            help=flag.help.replace("%", "%%"),
        )
    booleans = {f"--{flag.name}" for flag in _FLAGS if flag.boolean}
    # Go's boolean flags take no separate value.
    spelled = [f"{word}=true" if word in booleans else word for word in arguments]
    try:
        parsed, unknown = parser.parse_known_args(spelled)
    except errors.SettingsError as error:
        problems += error.problems
        parsed, unknown = parser.parse_known_args([])
    problems += [f"{word} is unknown: --help lists what there is" for word in unknown]
    given = vars(parsed)
    return {
        flag.name: (",".join(given[flag.name]) if flag.listed else given[flag.name][-1])
        if given[flag.name]
        else flag.default
        for flag in _FLAGS
    }


def _keys(environment: Mapping[str, str], problems: _Problems) -> tuple[str, secret.Secret]:
    access_key = environment.get("KCI_ACCESS_KEY", "").strip()
    secret_key = environment.get("KCI_SECRET_KEY", "").strip()
    if not (access_key and secret_key):
        if environment.get("TEMP_AKSK_CM", "").strip():
            problems.append(
                "TEMP_AKSK_CM is given, but temporary keys come with a later release: set KCI_ACCESS_KEY "
                "and KCI_SECRET_KEY"
            )
        else:
            problems.append("the environment variables KCI_ACCESS_KEY and KCI_SECRET_KEY are both needed")
    return access_key, secret.Secret(secret_key)


def _tls_file(
    problems: _Problems, flags: Mapping[str, str], environment: Mapping[str, str], name: str
) -> pathlib.Path:
    variable, what = {
        "client-ca-file": (
            "APISERVER_CA_CERT_LOCATION",
            "CA of the kubelet API's clients, without which it would serve nobody or everybody",
        ),
        "tls-cert-file": ("APISERVER_CERT_LOCATION", "kubelet API's serving certificate"),
        "tls-private-key-file": ("APISERVER_KEY_LOCATION", "serving certificate's private key"),
    }[name]
    return problems.file(f"--{name}", flags[name] or environment.get(variable, ""), what)


def _node_address(environment: Mapping[str, str], problems: _Problems) -> str:
    value = problems.text(environment, "VKUBELET_POD_IP", "set the node's own IP address")
    if value and not _is_address(value):
        problems.append(f"VKUBELET_POD_IP is {value!r}, which is no IP address")
    return value


def _identity_file(environment: Mapping[str, str]) -> pathlib.Path | None:
    value = environment.get("VKUBELET_IDENTITY_FILE", "").strip()
    return pathlib.Path(value) if value else None


def _port(environment: Mapping[str, str], problems: _Problems) -> int:
    value = environment.get("KUBELET_PORT", "").strip() or "10250"
    if not value.isdecimal() or not 0 < int(value) < 65536:
        problems.append(f"KUBELET_PORT is {value!r}, which is no TCP port")
        return 0
    return int(value)


def _stream_idle_s(environment: Mapping[str, str], problems: _Problems) -> float:
    value = environment.get("VKUBELET_STREAM_IDLE_S", "").strip() or f"{sockets.STREAM_IDLE_S:.0f}"
    if not value.isdecimal() or int(value) == 0:
        problems.append(f"VKUBELET_STREAM_IDLE_S is {value!r}, which is no number of seconds")
        return sockets.STREAM_IDLE_S
    return float(value)


def _cluster_id(environment: Mapping[str, str], problems: _Problems) -> str:
    value = problems.text(environment, "KCI_CLUSTER_ID", "set the cluster's id")
    if value and not _LABEL_VALUE.match(value):
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


def _security_groups(environment: Mapping[str, str], problems: _Problems) -> tuple[str, ...]:
    value = environment.get("KCI_SECURITY_GROUP_IDS", "")
    groups = tuple(part.strip() for part in value.split(",") if part.strip())
    if len(groups) > MAX_SECURITY_GROUPS:
        problems.append(f"KCI_SECURITY_GROUP_IDS has {len(groups)} groups: at most {MAX_SECURITY_GROUPS}")
    return groups


def _cluster_server(environment: Mapping[str, str], problems: _Problems) -> str:
    value = environment.get("KCI_CLUSTER_SERVER", "").strip().rstrip("/")
    if value and not re.match(r"(https://)?(\[[0-9a-fA-F:]+\]|[^/\s:]+)(:\d{1,5})?\Z", value):
        problems.append(f"KCI_CLUSTER_SERVER is {value!r}: write it as ip:port")
    return value


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
