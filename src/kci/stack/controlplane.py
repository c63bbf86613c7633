"""Command lines and configuration of etcd, API server, controller-manager and scheduler. Pure.

Each is a role of one binary (go/controlplane). etcd, controller-manager and scheduler listen on
loopback alone; the API server on the gateway address, where pods and the node reach it.
"""

from __future__ import annotations

import dataclasses
import pathlib

import yaml

from kci.kit import secret
from kci.kube import config
from kci.stack import addresses, certificates, commands, layout, record

LOOPBACK = "127.0.0.1"
SLOW_REQUEST_NS = 300_000_000
AUDIT_FILE_MIB = 256
# The controller-manager makes some forty service accounts and tokens when it starts; at its default of
# 20 requests a second that takes longer than all the rest of the start.
CONTROLLER_MANAGER_QPS, CONTROLLER_MANAGER_BURST = 200, 400


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the four command lines are made from."""

    where: layout.Layout
    binary: pathlib.Path
    version: str
    etcd_version: str
    ranges: addresses.Ranges
    choices: record.Choices
    api_port: int
    cluster_domain: str
    audit: bool = False

    @property
    def server(self) -> str:
        return f"https://{self.ranges.gateway}:{self.api_port}"

    def certificate(self, name: str) -> str:
        return str(certificates.certificate_path(self.where.pki, name))

    def key(self, name: str) -> str:
        return str(certificates.key_path(self.where.pki, name))


def etcd_config(plan: Plan) -> str:
    """Etcd's own configuration file."""
    client = f"https://{LOOPBACK}:{plan.choices.etcd_port}"
    peer = f"https://{LOOPBACK}:{plan.choices.etcd_peer_port}"
    tls = {
        "cert-file": plan.certificate("etcd"),
        "key-file": plan.key("etcd"),
        "trusted-ca-file": plan.certificate("etcd-ca"),
        "client-cert-auth": True,
    }
    return yaml.safe_dump(
        {
            "name": "kci",
            "data-dir": str(plan.where.etcd),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"kci={peer}",
            "client-transport-security": tls,
            "peer-transport-security": tls,
            "log-level": "warn",
            # Read from a file, its default is 0: then each request is warned of.
            "warning-unary-request-duration": SLOW_REQUEST_NS,
        }
    )


def audit_policy() -> str:
    """Who changed what of pods, nodes and Leases, with the state that came of it, and everything that nodes
    and kube-system's accounts ask for; nothing that holds secrets by its kind.
    """
    told = [
        {
            "group": "",
            "resources": ["pods", "pods/status", "pods/binding", "pods/eviction", "nodes", "nodes/status"],
        },
        {"group": "coordination.k8s.io", "resources": ["leases"]},
    ]
    streams = {"group": "", "resources": ["pods/exec", "pods/attach", "pods/portforward", "pods/log"]}
    watched = {"userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]}
    once = {"omitStages": ["ResponseStarted"]}
    return yaml.safe_dump(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "omitManagedFields": True,
            "rules": [
                {"level": "Metadata", "resources": [streams], **once},
                # Told when it begins, too: a watch may outlast the stack.
                {"level": "Metadata", "verbs": ["watch"], **watched},
                {"level": "Metadata", "verbs": ["get", "list"], **watched, **once},
                {"level": "None", "verbs": ["get", "list", "watch"]},
                {"level": "RequestResponse", "resources": told, **once},
                {"level": "Metadata", **watched, **once},
                {"level": "None"},
            ],
        }
    )


def etcd(plan: Plan) -> commands.Command:
    port = plan.choices.etcd_port
    return commands.Command(
        argv=(str(plan.binary), "etcd", str(plan.where.etcd_config)),
        version=plan.etcd_version,
        probe=commands.HttpProbe(
            f"https://{LOOPBACK}:{port}/readyz",
            ca=pathlib.Path(plan.certificate("etcd-ca")),
            certificate=pathlib.Path(plan.certificate("apiserver-etcd-client")),
            key=pathlib.Path(plan.key("apiserver-etcd-client")),
        ),
        listens=((LOOPBACK, port, ""), (LOOPBACK, plan.choices.etcd_peer_port, "")),
    )


def api_server(plan: Plan) -> commands.Command:
    assert plan.ranges.services is not None
    service_account = certificates.SERVICE_ACCOUNT
    flags = {
        "bind-address": plan.ranges.gateway,
        "advertise-address": plan.ranges.gateway,
        "secure-port": plan.api_port,
        "etcd-servers": f"https://{LOOPBACK}:{plan.choices.etcd_port}",
        "etcd-cafile": plan.certificate("etcd-ca"),
        "etcd-certfile": plan.certificate("apiserver-etcd-client"),
        "etcd-keyfile": plan.key("apiserver-etcd-client"),
        "tls-cert-file": plan.certificate("apiserver"),
        "tls-private-key-file": plan.key("apiserver"),
        "client-ca-file": plan.certificate("ca"),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "anonymous-auth": "false",
        # As kubeadm: whether a pod may be privileged is the node's to say, with its reason on the pod.
        "allow-privileged": "true",
        "service-cluster-ip-range": plan.ranges.services,
        "service-account-issuer": f"https://kubernetes.default.svc.{plan.cluster_domain}",
        "service-account-key-file": plan.where.pki / f"{service_account}.pub",
        "service-account-signing-key-file": plan.key(service_account),
        "kubelet-certificate-authority": plan.certificate("ca"),
        "kubelet-client-certificate": plan.certificate("apiserver-kubelet-client"),
        "kubelet-client-key": plan.key("apiserver-kubelet-client"),
        "kubelet-preferred-address-types": "InternalIP",
        "requestheader-client-ca-file": plan.certificate("front-proxy-ca"),
        "requestheader-allowed-names": certificates.FRONT_PROXY_CLIENT,
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": plan.certificate(certificates.FRONT_PROXY_CLIENT),
        "proxy-client-key-file": plan.key(certificates.FRONT_PROXY_CLIENT),
        # Only pods reach ClusterIPs; an aggregated API server is asked at its endpoints.
        "enable-aggregator-routing": "true",
        "profiling": "false",
        **(_audit_flags(plan.where) if plan.audit else {}),
    }
    return commands.Command(
        argv=(str(plan.binary), "kube-apiserver", *_flags(flags)),
        version=plan.version,
        probe=commands.HttpProbe(
            f"{plan.server}/readyz",
            ca=pathlib.Path(plan.certificate("ca")),
            certificate=pathlib.Path(plan.certificate("admin")),
            key=pathlib.Path(plan.key("admin")),
        ),
        listens=((str(plan.ranges.gateway), plan.api_port, "choose another port with --api-port"),),
        ready_timeout_s=120.0,
        stop_timeout_s=30.0,
    )


def controller_manager(plan: Plan) -> commands.Command:
    flags = {
        **_client_flags(plan, "controller-manager", plan.choices.controller_manager_port),
        "use-service-account-credentials": "true",
        "root-ca-file": plan.certificate("ca"),
        "service-account-private-key-file": plan.key(certificates.SERVICE_ACCOUNT),
        "cluster-signing-cert-file": plan.certificate("ca"),
        "cluster-signing-key-file": plan.key("ca"),
        "cluster-name": "kci",
        "kube-api-qps": CONTROLLER_MANAGER_QPS,
        "kube-api-burst": CONTROLLER_MANAGER_BURST,
        # Made if missing; its default lies outside the state folder.
        "flex-volume-plugin-dir": plan.where.root / "volume-plugins",
    }
    return _loopback_command(plan, "kube-controller-manager", flags, plan.choices.controller_manager_port)


def scheduler(plan: Plan) -> commands.Command:
    flags = _client_flags(plan, "scheduler", plan.choices.scheduler_port)
    return _loopback_command(plan, "kube-scheduler", flags, plan.choices.scheduler_port)


def kubeconfig(plan: Plan, name: str) -> str:
    """A kubeconfig for our API server with the certificate of this name. Blocking. The text is a secret."""
    return config.render(
        config.ClusterConfig(
            server=plan.server,
            ca_pem=pathlib.Path(plan.certificate("ca")).read_text(),
            client_certificate_pem=pathlib.Path(plan.certificate(name)).read_text(),
            client_key_pem=secret.Secret(pathlib.Path(plan.key(name)).read_text()),
        )
    )


def _audit_flags(where: layout.Layout) -> dict[str, object]:
    return {
        "audit-policy-file": where.audit_policy,
        "audit-log-path": where.audit_log,
        "audit-log-maxsize": AUDIT_FILE_MIB,
        "audit-log-maxbackup": 1,
        # Written before the caller is answered: what a client did next stands behind it.
        "audit-log-mode": "blocking",
    }


def _client_flags(plan: Plan, name: str, port: int) -> dict[str, object]:
    kubeconfig_file = plan.where.kubeconfig_of(name)
    return {
        "kubeconfig": kubeconfig_file,
        "authentication-kubeconfig": kubeconfig_file,
        "authorization-kubeconfig": kubeconfig_file,
        "bind-address": LOOPBACK,
        "secure-port": port,
        "tls-cert-file": plan.certificate("loopback"),
        "tls-private-key-file": plan.key("loopback"),
        "leader-elect": "false",
        "profiling": "false",
    }


def _loopback_command(plan: Plan, role: str, flags: dict[str, object], port: int) -> commands.Command:
    return commands.Command(
        argv=(str(plan.binary), role, *_flags(flags)),
        version=plan.version,
        probe=commands.HttpProbe(
            f"https://{LOOPBACK}:{port}/healthz", ca=pathlib.Path(plan.certificate("ca"))
        ),
        listens=((LOOPBACK, port, ""),),
    )


def _flags(flags: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]
