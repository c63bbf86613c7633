"""The kcilet's settings: flags, read once, checked together."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import pathlib
import re
from collections.abc import Sequence

from kci.kcilet import ports
from kci.kcilet.workers import machine
from kci.kit import errors, logs, metrics

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Longer paths of unix sockets the kernel refuses.
_SOCKET_PATH_BYTES = 107
# The kernel's limit for the names of network interfaces.
_INTERFACE_CHARACTERS = 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """`kcilet run`."""

    #: The unix socket that the service talks to. Only its owner may open it.
    socket: pathlib.Path
    #: The runtime's CRI socket.
    cri_endpoint: pathlib.Path
    #: Where pods' volumes and logs lie. It must be in the mount namespace that the runtime uses.
    state_dir: pathlib.Path
    #: The unix socket on which the CNI plugin asks us to wire a pod.
    cni_socket: pathlib.Path
    #: The link that holds the pods' gateway addresses. It is there before us.
    bridge: str
    #: What pods may begin connections to on this machine, as HOST:PORT or HOST:PORT/udp; may be repeated.
    #: Beside it they reach nothing of the machine but an echo of their gateway. Default: nothing.
    reachable: tuple[ports.Reachable, ...] = ()
    #: Connections that a pod may have at once. Default: 16384.
    connections: int = 16384
    #: The cgroup beneath which each pod gets its own. Default: kci.
    cgroup_parent: str = "kci"
    #: The runtime's handler for sandboxes. Default: the runtime's own default.
    runtime_handler: str = ""
    #: How much is logged: debug, info, warning or error. Default: info.
    log_level: str = "info"
    limits: machine.Limits = dataclasses.field(default_factory=machine.Limits)
    #: The size at which a container's log is put aside and a new one begun, in MiB; a kubelet's
    #: containerLogMaxSize. Default: 10.
    log_max_mib: int = 10
    #: Where this program's own metrics are served, [host]:port, at /metrics. Default: nowhere.
    metrics_address: str = ""
    #: How many files a container's log has at most; a kubelet's containerLogMaxFiles. Default: 5.
    log_max_files: int = 5
    #: Whether pods reach Services by external and load-balancer addresses, too. Default: false, since
    #: whoever may make Services in a cluster could take any address over.
    service_external_addresses: bool = False

    @property
    def logs_dir(self) -> pathlib.Path:
        """Named as a kubelet's: `<namespace>_<name>_<uid>/<container>/<attempt>.log`."""
        return to_logs_dir(self.state_dir)

    @property
    def served_store(self) -> pathlib.Path:
        """Removed by an operator who wants another store served."""
        return self.state_dir / "served-store"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drain:
    """`kcilet drain`."""

    cri_endpoint: pathlib.Path
    state_dir: pathlib.Path
    cgroup_parent: str = "kci"
    #: Seconds that containers are given to end by themselves. Default: 30.
    grace_s: int = 30
    log_level: str = "info"


def to_logs_dir(state_dir: pathlib.Path) -> pathlib.Path:
    return state_dir / "logs" / "pods"


def parse(arguments: Sequence[str]) -> Run | Drain:
    """Raises SettingsError with everything that is wrong."""
    found = make_parser().parse_args(arguments)
    problems = [*_socket_problems(found), *_other_problems(found)]
    if problems:
        raise errors.SettingsError(problems)
    return _to_drain(found) if found.command == "drain" else _to_run(found)


def _other_problems(found: argparse.Namespace) -> list[str]:
    problems = []
    if not found.state_dir.is_absolute():
        problems.append(f"--state-dir: {found.state_dir} is no absolute path")
    if not _NAME.fullmatch(found.cgroup_parent):
        problems.append(f"--cgroup-parent: {found.cgroup_parent!r} is no single name")
    if found.command == "drain":
        return problems + (["--grace-s: must not be negative"] if found.grace_s < 0 else [])
    if not _NAME.fullmatch(found.bridge) or len(found.bridge) > _INTERFACE_CHARACTERS:
        problems.append(f"--bridge: {found.bridge!r} is no name of an interface")
    if found.connections < 1:
        problems.append("--connections-per-pod: must be 1 or more")
    if wrong := metrics.check_address(found.metrics_listen):
        problems.append(f"--metrics-listen {wrong}")
    if found.starts < 1:
        problems.append("--concurrent-starts: must be 1 or more")
    if found.log_max_mib < 1:
        problems.append("--log-max-mib: must be 1 or more")
    if found.log_max_files < 2:
        problems.append("--log-max-files: must be 2 or more")
    return problems


def _socket_problems(found: argparse.Namespace) -> list[str]:
    flags = ("socket", "cri_endpoint", "cni_socket")
    paths = {flag: getattr(found, flag) for flag in flags if hasattr(found, flag)}
    return [
        f"--{flag.replace('_', '-')}: {path} is longer than {_SOCKET_PATH_BYTES} bytes"
        for flag, path in paths.items()
        if len(str(path)) > _SOCKET_PATH_BYTES
    ]


def _to_run(found: argparse.Namespace) -> Run:
    return Run(
        socket=found.socket,
        cri_endpoint=found.cri_endpoint,
        state_dir=found.state_dir,
        cni_socket=found.cni_socket,
        bridge=found.bridge,
        reachable=tuple(found.reachable),
        connections=found.connections,
        cgroup_parent=found.cgroup_parent,
        runtime_handler=found.runtime_handler,
        log_level=found.log_level,
        limits=machine.Limits(starts=found.starts),
        log_max_mib=found.log_max_mib,
        log_max_files=found.log_max_files,
        service_external_addresses=found.service_external_addresses,
        metrics_address=found.metrics_listen,
    )


def _to_drain(found: argparse.Namespace) -> Drain:
    return Drain(
        cri_endpoint=found.cri_endpoint,
        state_dir=found.state_dir,
        cgroup_parent=found.cgroup_parent,
        grace_s=found.grace_s,
        log_level=found.log_level,
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kcilet", description="Runs the pods of container groups on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the wanted groups until told to stop; containers go on")
    drain = commands.add_parser("drain", help="stop all containers of ours, and keep their records")
    for command in (run, drain):
        command.add_argument(
            "--cri-endpoint", type=_socket, required=True, metavar="PATH", help="containerd's socket"
        )
        command.add_argument(
            "--state-dir",
            type=pathlib.Path,
            required=True,
            metavar="DIR",
            help="folder of pods' volumes and logs, and of what is remembered",
        )
        command.add_argument(
            "--cgroup-parent",
            default="kci",
            metavar="NAME",
            help="the cgroup that pods' cgroups lie in (default: %(default)s)",
        )
        command.add_argument(
            "--log-level",
            default="info",
            choices=logs.LEVELS,
            help="what is logged at least (default: %(default)s)",
        )
    run.add_argument(
        "--socket", type=_socket, required=True, metavar="PATH", help="where the KCI service connects"
    )
    run.add_argument(
        "--cni-socket", type=_socket, required=True, metavar="PATH", help="where the CNI plugin connects"
    )
    run.add_argument("--bridge", required=True, metavar="NAME", help="the link that holds the pods' gateways")
    run.add_argument(
        "--reachable",
        type=_reachable,
        action="append",
        default=[],
        metavar="HOST:PORT[/udp]",
        help="what pods reach on this machine; may be repeated (default: nothing)",
    )
    run.add_argument(
        "--connections-per-pod",
        dest="connections",
        type=int,
        default=Run.connections,
        metavar="N",
        help="connections that a pod has at most at once (default: %(default)s)",
    )
    run.add_argument(
        "--runtime-handler",
        default="",
        metavar="NAME",
        help="containerd's runtime for pods (default: containerd's own)",
    )
    run.add_argument(
        "--concurrent-starts",
        dest="starts",
        type=int,
        default=machine.Limits.starts,
        metavar="N",
        help="sandboxes made at once (default: %(default)s)",
    )
    run.add_argument(
        "--log-max-mib",
        type=int,
        default=Run.log_max_mib,
        metavar="N",
        help="size at which a container's log is rotated (default: %(default)s)",
    )
    run.add_argument(
        "--log-max-files",
        type=int,
        default=Run.log_max_files,
        metavar="N",
        help="files that a container's log has at most (default: %(default)s)",
    )
    run.add_argument(
        "--service-external-addresses",
        action="store_true",
        help="let pods reach Services by external and load-balancer addresses",
    )
    run.add_argument(
        "--metrics-listen",
        default="",
        metavar="[HOST]:PORT",
        help="where the program's own metrics are served (HTTP, at /metrics, to everybody who can connect);"
        " default: nowhere",
    )
    drain.add_argument(
        "--grace-s",
        type=int,
        default=30,
        metavar="N",
        help="seconds that containers have at most to end (default: %(default)s)",
    )
    return parser


def _reachable(text: str) -> ports.Reachable:
    """ValueError's own text is not shown: argparse names the flag and the value."""
    endpoint, _, protocol = text.partition("/")
    host, _, port = endpoint.rpartition(":")
    address = str(ipaddress.IPv4Address(host))
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(text)
    if protocol not in {"", "tcp", "udp"}:
        raise ValueError(text)
    return ports.Reachable(address, int(port), protocol or "tcp")


def _socket(text: str) -> pathlib.Path:
    return pathlib.Path(text.removeprefix("unix://"))
