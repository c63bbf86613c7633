"""Everything that is decided and written before the first part starts: ranges, ports, keys, configuration.

Runs in the stack's network namespace. May be repeated: what exists and still fits is kept.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import ipaddress
import pathlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

import kci
from kci.kit import crashpoints, files, linkgroups, secret, tracing
from kci.kit import errors as kit_errors
from kci.kube import config
from kci.stack import (
    addresses,
    certificates,
    containerd,
    controlplane,
    coredns,
    errors,
    goprograms,
    layout,
    links,
    metricsserver,
    programs,
    record,
    settings,
)
from kci.stack.images import catalogue


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What the parts are planned from."""

    where: layout.Layout
    asked: settings.Settings
    machine: settings.Machine
    ranges: addresses.Ranges
    choices: record.Choices
    identity: record.Identity = dataclasses.field(repr=False)
    # None where containerd is not ours.
    binaries: containerd.Binaries | None
    # None where the control plane is ours: its administrator exists once its certificates do.
    cluster: config.ClusterConfig | None = dataclasses.field(repr=False)
    images_are_local: bool = False
    # Of the machine; what our own cluster DNS asks for names that are not the cluster's.
    resolvers: tuple[str, ...] = ()
    # What no subnet of a user may have.
    reserved: tuple[addresses.Network, ...] = ()

    @property
    def gateway(self) -> str:
        return str(self.ranges.gateway)

    @property
    def cri_endpoint(self) -> pathlib.Path:
        return (
            pathlib.Path(self.asked.cri_endpoint) if self.asked.cri_endpoint else self.where.containerd_socket
        )

    @property
    def cluster_server(self) -> str:
        return self.cluster.server if self.cluster else self.control_plane_plan().server

    @property
    def kubeconfig(self) -> str:
        return self.asked.kubeconfig or str(self.where.kubeconfig)

    def program_plan(self) -> programs.Plan:
        return programs.Plan(
            where=self.where,
            asked=self.asked,
            ranges=self.ranges,
            choices=self.choices,
            identity=self.identity,
            cri_endpoint=self.cri_endpoint,
            runtime_handler=self.binaries.runtime if self.binaries else _plain(self.asked.runtime),
            path=self.machine.path,
            crash_points=self.machine.variables.get(crashpoints.ENVIRONMENT, ""),
            trace_variables=tracing.of(self.machine.variables),
            reserved=self.reserved,
        )

    def control_plane_plan(self) -> controlplane.Plan:
        module = goprograms.read_module()
        return controlplane.Plan(
            where=self.where,
            binary=goprograms.cached_path(
                goprograms.CONTROL_PLANE, module, pathlib.Path(self.machine.cache_dir)
            ),
            version=module.kubernetes_version,
            etcd_version=module.etcd_version,
            ranges=self.ranges,
            choices=self.choices,
            api_port=self.asked.api_port,
            cluster_domain=self.asked.cluster_domain,
            audit=self.asked.audit,
        )

    def dns_plan(self) -> coredns.Plan:
        module = goprograms.read_module(program=goprograms.COREDNS)
        return coredns.Plan(
            where=self.where,
            binary=goprograms.cached_path(goprograms.COREDNS, module, pathlib.Path(self.machine.cache_dir)),
            version=module.version_of(goprograms.COREDNS),
            ranges=self.ranges,
            choices=self.choices,
            cluster_domain=self.asked.cluster_domain,
            resolvers=self.resolvers,
            answers_internal_name=self.asked.kci_port == coredns.INTERNAL_PORT,
        )

    def metrics_server_plan(self) -> metricsserver.Plan:
        module = goprograms.read_module(program=goprograms.METRICS_SERVER)
        return metricsserver.Plan(
            where=self.where,
            binary=goprograms.cached_path(
                goprograms.METRICS_SERVER, module, pathlib.Path(self.machine.cache_dir)
            ),
            version=module.version_of(goprograms.METRICS_SERVER),
            ranges=self.ranges,
            choices=self.choices,
        )


def check(
    where: layout.Layout, asked: settings.Settings, machine: settings.Machine
) -> config.ClusterConfig | None:
    """Refuse what `prepare` would refuse, while nothing is changed yet; the user's cluster. Blocking."""
    cluster = read_cluster(where, asked)
    _ = _find_binaries(asked, machine)
    _ = _choose_ranges(where, asked, record.read_choices(where), links.list_routes())
    return cluster


def read_cluster(where: layout.Layout, asked: settings.Settings) -> config.ClusterConfig | None:
    """The user's cluster; None where the control plane is ours. Blocking."""
    cluster = None
    if asked.kubeconfig:
        try:
            cluster = config.load(pathlib.Path(asked.kubeconfig))
        except kit_errors.UserError as error:
            raise errors.StackError(f"cannot use --kubeconfig {asked.kubeconfig}: {error}") from error
    _check_same_cluster(record.read_choices(where), cluster.server if cluster else "")
    return cluster


def prepare(
    where: layout.Layout,
    asked: settings.Settings,
    machine: settings.Machine,
    cluster: config.ClusterConfig | None,
    *,
    api_addresses: Sequence[str] = (),
) -> Prepared:
    """Decide, and remember what must stay; `api_addresses` are a given cluster's. Blocking."""
    kept = record.read_choices(where)
    binaries = _find_binaries(asked, machine)
    routes = links.list_routes()
    ranges = _choose_ranges(where, asked, kept, routes)
    ports = choose_ports(
        _kept_ports(kept), links.free_ports, lambda port: links.is_port_free("127.0.0.1", port)
    )
    choices = record.Choices(
        format=record.FORMAT,
        kci_version=kci.__version__,
        cluster=cluster.server if cluster else "",
        pod_cidr=str(ranges.pods),
        service_cidr=str(ranges.services or ""),
        etcd_port=ports[0],
        etcd_peer_port=ports[1],
        controller_manager_port=ports[2],
        scheduler_port=ports[3],
        registry_port=ports[4],
        dns_ready_port=ports[5],
        dns_metrics_port=ports[6],
        service_metrics_port=ports[7],
        kcilet_metrics_port=ports[8],
        node_metrics_port=ports[9],
        metrics_server_port=ports[10],
    )
    record.write(where.choices, choices)
    identity = record.read_or_make_identity(where)
    resolvers = read_resolvers(asked.netns, own=str(ranges.gateway))
    reserved = addresses.plan_reserved(
        ranges,
        routes,
        bridge=where.bridge,
        link_group=linkgroups.number_of(where.bridge),
        hosts=[*_only_ipv4(resolvers), *api_addresses],
    )
    return Prepared(
        where,
        asked,
        machine,
        ranges,
        choices,
        identity,
        binaries,
        cluster,
        resolvers=resolvers,
        reserved=reserved,
    )


def read_resolvers(netns: str, *, own: str) -> tuple[str, ...]:
    """The resolvers of the network namespace that the stack is in: a named one may have a file of its own,
    as `ip netns exec` reads it. Blocking.
    """
    of_netns = pathlib.Path("/etc/netns", netns, "resolv.conf")
    path = of_netns if netns and of_netns.exists() else pathlib.Path("/etc/resolv.conf")
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ()
    return coredns.read_resolvers(text, own=own, loopback_is_ours=not netns)


def _only_ipv4(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        with contextlib.suppress(ValueError):
            yield str(ipaddress.IPv4Address(text))


def choose_ports(
    kept: Sequence[int], free: Callable[[int], list[int]], is_free: Callable[[int], bool], *, count: int = 11
) -> list[int]:
    """The ports kept from the last start, each replaced if somebody else took it meanwhile."""
    known = [port if port and is_free(port) else 0 for port in kept] or [0] * count
    fresh = iter(free(known.count(0)))
    return [port or next(fresh) for port in known]


def kept_ranges(kept: record.Choices) -> addresses.Ranges:
    services = addresses.Network(kept.service_cidr) if kept.service_cidr else None
    return addresses.Ranges(pods=addresses.Network(kept.pod_cidr), services=services)


def write_files(prepared: Prepared) -> None:
    """Certificates and configuration of all parts. Blocking."""
    where = prepared.where
    for folder in (where.kcilet, where.registry, where.service_database.parent, where.node_pki):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if prepared.asked.own_control_plane:
        _write_control_plane(prepared)
    if prepared.binaries:
        _write_containerd(prepared, prepared.binaries)
    plan = prepared.program_plan()
    files.write_atomic(
        where.env_file,
        programs.env_file(
            prepared.identity, kci_endpoint=plan.kci_endpoint, cluster_server=prepared.cluster_server
        ),
    )
    if not where.encryption_key.exists():
        # Never replaced: what was encrypted with it could not be read again.
        files.write_atomic(where.encryption_key, base64.b64encode(secrets.token_bytes(32)))


def install_cni(where: layout.Layout, binary: pathlib.Path) -> None:
    """Our plugin under both names that containerd calls. Blocking."""
    for name in ("kci-cni", "loopback"):
        files.write_atomic(where.cni_bin / name, binary.read_bytes(), mode=0o755)


def fill_registry(prepared: Prepared, progress: Callable[[str], None]) -> list[str]:
    """Have the local registry hold what this stack needs of it. Blocking.

    No pod starts without the pause image, and the node's image was asked for. What else cannot be built on
    this machine is returned in words.
    """
    missing = []
    for recipe in catalogue.recipes(
        public_is_local=prepared.images_are_local, node_image=prepared.asked.node_image
    ):
        try:
            catalogue.ensure_store(
                prepared.where.registry, pathlib.Path(prepared.machine.cache_dir), progress, [recipe]
            )
        except kit_errors.UserError as error:
            if catalogue.PAUSE in recipe.references or recipe is catalogue.NODE:
                raise
            missing.append(f"without {recipe.name}: {error}")
    return missing


def administrator(prepared: Prepared) -> config.ClusterConfig:
    """Who may set up the node: the user's kubeconfig, or our own cluster's administrator. Blocking."""
    if prepared.cluster:
        return prepared.cluster
    plan = prepared.control_plane_plan()
    pki = prepared.where.pki
    return config.ClusterConfig(
        server=plan.server,
        ca_pem=certificates.certificate_path(pki, "ca").read_text(),
        client_certificate_pem=certificates.certificate_path(pki, "admin").read_text(),
        client_key_pem=secret.Secret(certificates.key_path(pki, "admin").read_text()),
    )


def _write_control_plane(prepared: Prepared) -> None:
    where, plan = prepared.where, prepared.control_plane_plan()
    assert prepared.ranges.services is not None
    leaves = certificates.plan_leaves(
        gateway=prepared.gateway,
        first_service_address=str(next(prepared.ranges.services.hosts())),
        cluster_domain=prepared.asked.cluster_domain,
    )
    certificates.ensure(where.pki, leaves, datetime.datetime.now(datetime.UTC))
    where.etcd.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.write_atomic(where.etcd_config, controlplane.etcd_config(plan))
    files.write_atomic(where.audit_policy, controlplane.audit_policy())
    files.write_atomic(where.kubeconfig, controlplane.kubeconfig(plan, "admin"))
    for name in ("controller-manager", "scheduler", "coredns", metricsserver.NAME):
        files.write_atomic(where.kubeconfig_of(name), controlplane.kubeconfig(plan, name))
    if prepared.asked.own_dns:
        files.write_atomic(where.corefile, coredns.corefile(prepared.dns_plan()))


def _write_containerd(prepared: Prepared, binaries: containerd.Binaries) -> None:
    where = prepared.where
    files.write_atomic(where.containerd_config, containerd.config(where, binaries))
    files.write_atomic(where.cni_conf / "10-kci.conf", containerd.cni_config(where))
    where.cni_bin.mkdir(parents=True, exist_ok=True)
    hosts = containerd.registry_hosts(
        prepared.choices.registry_port,
        public_is_local=prepared.images_are_local,
        node_image=prepared.asked.node_image,
    )
    for name in containerd.REGISTRIES:
        path = where.registry_hosts / name / "hosts.toml"
        if name in hosts:
            files.write_atomic(path, hosts[name])
        else:
            path.unlink(missing_ok=True)


def _find_binaries(asked: settings.Settings, machine: settings.Machine) -> containerd.Binaries | None:
    return containerd.find_binaries(asked.runtime, machine) if asked.own_containerd else None


def _choose_ranges(
    where: layout.Layout,
    asked: settings.Settings,
    kept: record.Choices | None,
    routes: Sequence[addresses.Route],
) -> addresses.Ranges:
    return addresses.choose_ranges(
        pods=asked.pod_cidr,
        services=asked.service_cidr,
        own_control_plane=asked.own_control_plane,
        routes=routes,
        bridge=where.bridge,
        link_group=linkgroups.number_of(where.bridge),
        kept=kept_ranges(kept) if kept else None,
    )


def _check_same_cluster(kept: record.Choices | None, server: str) -> None:
    if kept is None or kept.cluster == server:
        return
    was, now = (one or "a control plane of its own" for one in (kept.cluster, server))
    raise errors.StackError(
        f"cannot use {now} with the state folder of a stack that uses {was}: "
        "choose another --state-dir, or `kci down --purge` first"
    )


def _kept_ports(kept: record.Choices | None) -> list[int]:
    if kept is None:
        return []
    return [
        kept.etcd_port,
        kept.etcd_peer_port,
        kept.controller_manager_port,
        kept.scheduler_port,
        kept.registry_port,
        kept.dns_ready_port,
        kept.dns_metrics_port,
        kept.service_metrics_port,
        kept.kcilet_metrics_port,
        kept.node_metrics_port,
        kept.metrics_server_port,
    ]


def _plain(runtime: settings.Runtime) -> str:
    """The handler to ask a containerd for that is not ours: its default one unless the user names one."""
    return "" if runtime is settings.Runtime.AUTO else runtime.value
