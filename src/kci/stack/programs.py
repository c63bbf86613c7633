"""Command lines of our own programs and the local registry. Pure."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import sys
import urllib.parse
from collections.abc import Mapping

import kci
from kci.kit import crashpoints
from kci.stack import addresses, certificates, commands, layout, parts, record, settings

REGION = "local-1"
ZONE = "local-1a"
PROVIDER = "kingsoftcloud"
# Metrics are for who is on the machine.
LOOPBACK = "127.0.0.1"
# The runtime does not know a pod's own grace. `docker stop` gives this long, and so do we.
DRAIN_GRACE_S = 10
DNS_PORT, HTTPS_PORT = 53, 443
NODE_CLIENT, NODE_SERVING, CLIENT_CA = "client", "serving", "client-ca"


@dataclasses.dataclass(frozen=True)
class Plan:
    where: layout.Layout
    asked: settings.Settings
    ranges: addresses.Ranges
    choices: record.Choices
    identity: record.Identity = dataclasses.field(repr=False)
    # The CRI socket and the handler that kcilet asks it for.
    cri_endpoint: pathlib.Path
    runtime_handler: str
    path: str
    # A folder with one file for each part that is to crash (kit/crashpoints.py); for tests.
    crash_points: str = ""
    # OpenTelemetry's own variables, for the programs that trace. One may hold a key of the collector's.
    trace_variables: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    # What no subnet of a user may have (addresses.plan_reserved).
    reserved: tuple[addresses.Network, ...] = ()

    @property
    def kci_endpoint(self) -> str:
        return f"http://{self.ranges.gateway}:{self.asked.kci_port}"


def registry(plan: Plan) -> commands.Command:
    address = f"127.0.0.1:{plan.choices.registry_port}"
    return _program(
        plan,
        "kci.stack.images.registry",
        {"listen": address, "store": plan.where.registry},
        probe=commands.HttpProbe(f"http://{address}/v2/"),
        listens=(("127.0.0.1", plan.choices.registry_port, ""),),
    )


def service(plan: Plan) -> commands.Command:
    host = str(plan.ranges.gateway)
    flags = {
        "listen": f"{host}:{plan.asked.kci_port}",
        "database": plan.where.service_database,
        "region": REGION,
        "zone": ZONE,
        "kcilet-socket": plan.where.kcilet_socket,
        "subnet-id": plan.identity.subnet_id,
        "subnet-cidr": plan.ranges.pods,
        "gateway": host,
        "security-group-id": plan.identity.security_group_id,
        "operator-credentials": plan.where.env_file,
        "encryption-key-file": plan.where.encryption_key,
        "metrics-listen": f"{LOOPBACK}:{plan.choices.service_metrics_port}",
        "log-level": plan.asked.log_level,
    }
    return _program(
        plan,
        "kci.service.main",
        flags,
        switches=tuple(f"--reserved-cidr={one}" for one in plan.reserved),
        env=_crash_environment(plan, parts.Part.SERVICE),
        probe=commands.HttpProbe(f"{plan.kci_endpoint}/healthz"),
        listens=((host, plan.asked.kci_port, "choose another port with --kci-port"),),
    )


def kcilet(plan: Plan, *, cluster_server: str) -> commands.Command:
    flags = {
        "socket": plan.where.kcilet_socket,
        "cri-endpoint": plan.cri_endpoint,
        "state-dir": plan.where.kcilet,
        "cni-socket": plan.where.cni_socket,
        "bridge": plan.where.bridge,
        "cgroup-parent": plan.where.cgroup_parent,
        "runtime-handler": plan.runtime_handler,
        "metrics-listen": f"{LOOPBACK}:{plan.choices.kcilet_metrics_port}",
        "log-level": plan.asked.log_level,
    }
    return _program(
        plan,
        "kci.kcilet.main",
        flags,
        arguments=("run",),
        switches=tuple(f"--reachable={one}" for one in reachable(plan, cluster_server)),
        env=_crash_environment(plan, parts.Part.KCILET),
        probe=commands.HttpProbe("http://kcilet/v1/version", socket=plan.where.kcilet_socket),
    )


def reachable(plan: Plan, cluster_server: str) -> list[str]:
    """What pods reach on this machine: the API server if it is here, the cluster's DNS, the KCI service."""
    gateway = plan.ranges.gateway
    found = [f"{gateway}:{DNS_PORT}", f"{gateway}:{DNS_PORT}/udp", f"{gateway}:{plan.asked.kci_port}"]
    server = urllib.parse.urlsplit(cluster_server)
    with contextlib.suppress(ValueError):
        found.append(f"{ipaddress.IPv4Address(server.hostname or '')}:{server.port or HTTPS_PORT}")
    return found


def drain(where: layout.Layout, cri_endpoint: pathlib.Path, path: str) -> commands.Command:
    """`kcilet drain`: stops every pod of ours and keeps what the restart policy needs to know later."""
    flags = {
        "cri-endpoint": cri_endpoint,
        "state-dir": where.kcilet,
        "cgroup-parent": where.cgroup_parent,
        "grace-s": DRAIN_GRACE_S,
    }
    return commands.Command(
        argv=(*_python("kci.kcilet.main"), "drain", *_flags(flags)),
        env={"PATH": path},
        version=kci.__version__,
        probe=None,
    )


def virtual_kubelet(
    plan: Plan, *, cluster_server: str, node_kubeconfig: pathlib.Path, cluster_dns: str = ""
) -> commands.Command:
    """`cluster_dns` is empty where the cluster has none that we know of."""
    host = str(plan.ranges.gateway)
    pki = plan.where.node_pki
    flags = {
        "provider": PROVIDER,
        "nodename": plan.asked.node_name,
        "cluster-domain": plan.asked.cluster_domain,
        **({"cluster-dns": cluster_dns} if cluster_dns else {}),
        "kubeconfig": node_kubeconfig,
        "client-ca-file": certificates.certificate_path(pki, CLIENT_CA),
        "tls-cert-file": certificates.certificate_path(pki, NODE_SERVING),
        "tls-private-key-file": certificates.key_path(pki, NODE_SERVING),
        "metrics-addr": f"{LOOPBACK}:{plan.choices.node_metrics_port}",
        "log-level": plan.asked.log_level,
    }
    switches = ("--enable-node-lease", *(("--disable-taint",) if plan.asked.disable_taint else ()))
    env = {
        **operator_environment(plan.identity, plan.kci_endpoint),
        **cluster_environment(plan.identity, cluster_server),
        **_crash_environment(plan, parts.Part.VIRTUAL_KUBELET),
        "VKUBELET_POD_IP": host,
        "VKUBELET_IDENTITY_FILE": str(plan.where.node_pki / "copy"),
        "KUBELET_PORT": str(plan.asked.kubelet_port),
        "KCI_KUBE_PROXY": str(plan.asked.kube_proxy).lower(),
    }
    return _program(
        plan,
        "kci.provider.main",
        flags,
        switches=switches,
        env=env,
        probe=commands.TcpProbe(host, plan.asked.kubelet_port),
        listens=((host, plan.asked.kubelet_port, "choose another port with --kubelet-port"),),
    )


def operator_environment(identity: record.Identity, kci_endpoint: str) -> dict[str, str]:
    """The operator's account as the guide's variables. Secret."""
    return {
        "KCI_ACCESS_KEY": identity.access_key,
        "KCI_SECRET_KEY": identity.secret_key,
        "KCI_REGION": REGION,
        "KCI_ENDPOINT": kci_endpoint,
    }


def cluster_environment(identity: record.Identity, cluster_server: str) -> dict[str, str]:
    """Whose pods a node's are and where they go, as the guide's variables."""
    return {
        "KCI_CLUSTER_ID": identity.cluster_id,
        "KCI_SUBNET_ID": identity.subnet_id,
        "KCI_SECURITY_GROUP_IDS": identity.security_group_id,
        "KCI_CLUSTER_SERVER": urllib.parse.urlsplit(cluster_server).netloc,
    }


def env_file(identity: record.Identity, *, kci_endpoint: str, cluster_server: str) -> str:
    """Both for a shell to read: what another virtual node of this stack is given. Secret."""
    variables = operator_environment(identity, kci_endpoint) | cluster_environment(identity, cluster_server)
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def _crash_environment(plan: Plan, part: parts.Part) -> dict[str, str]:
    return {crashpoints.ENVIRONMENT: f"{plan.crash_points}/{part}"} if plan.crash_points else {}


def _program(
    plan: Plan,
    module: str,
    flags: Mapping[str, object],
    *,
    probe: commands.Probe,
    arguments: tuple[str, ...] = (),
    switches: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    listens: tuple[tuple[str, int, str], ...] = (),
) -> commands.Command:
    return commands.Command(
        argv=(*_python(module), *arguments, *_flags(flags), *switches),
        env={"PATH": plan.path, **plan.trace_variables, **(env or {})},
        version=kci.__version__,
        probe=probe,
        listens=listens,
    )


def _python(module: str) -> tuple[str, ...]:
    # -P: nothing in the folder that we were called from may stand in for a module of ours.
    return (sys.executable, "-P", "-m", module)


def _flags(flags: Mapping[str, object]) -> list[str]:
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]
