"""Configuration of our containerd instance: pure texts, and finding the binaries on the machine.

Form 2 of the configuration, which containerd 1.6 and 1.7 read and 2.x converts.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess

from kci.stack import commands, errors, layout, settings
from kci.stack.images import virtualkubelet

SANDBOX_IMAGE = "registry.local/pause:1"
LOCAL_REGISTRY = "registry.local"
PUBLIC_REGISTRY = "docker.io"
# Where the guide's image comes from.
NODE_REGISTRY = virtualkubelet.GUIDE_HOST
REGISTRIES = (LOCAL_REGISTRY, PUBLIC_REGISTRY, NODE_REGISTRY)
CRUN_MINIMUM = (1, 21)
INSTALL = "apt install containerd runc"


@dataclasses.dataclass(frozen=True)
class Binaries:
    """What the machine has."""

    containerd: str
    containerd_version: str
    # The handler's name for CRI, and its binary.
    runtime: str
    runtime_path: str


def find_binaries(wanted: settings.Runtime, machine: settings.Machine) -> Binaries:
    """StackError with the remedy if something is missing. Blocking."""
    containerd = shutil.which("containerd", path=machine.path)
    if containerd is None or not shutil.which("containerd-shim-runc-v2", path=machine.path):
        raise errors.StackError(f"cannot find containerd on this machine: {INSTALL}")
    versions = {name: runtime_version(name, machine) for name in ("crun", "runc")}
    runtime = choose_runtime(wanted, versions)
    path = shutil.which(runtime, path=machine.path)
    assert path is not None
    found = re.search(r"\b(\d+\.\d+\.\d+)", _output(containerd, "--version"))
    return Binaries(containerd, found.group(1) if found else "", runtime, path)


def choose_runtime(wanted: settings.Runtime, versions: dict[str, tuple[int, ...] | None]) -> str:
    """The handler to use; a missing version means: not installed."""
    crun = versions.get("crun")
    match wanted:
        case settings.Runtime.AUTO:
            if crun and crun >= CRUN_MINIMUM:
                return "crun"
        case settings.Runtime.CRUN:
            if crun and crun >= CRUN_MINIMUM:
                return "crun"
            have = f"found {'.'.join(map(str, crun))}" if crun else "found none"
            minimum = ".".join(map(str, CRUN_MINIMUM))
            raise errors.StackError(
                f"cannot use crun: {minimum} or newer is needed and {have}; install it, or use --runtime runc"
            )
        case settings.Runtime.RUNC:
            pass
    if versions.get("runc") is None:
        raise errors.StackError(f"cannot find runc on this machine: {INSTALL}")
    return "runc"


def config(where: layout.Layout, binaries: Binaries) -> str:
    """config.toml. Paths are quoted by JSON's rules, which TOML's basic strings share."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    home = where.containerd
    return f"""version = 2
root = {_quote(home / "root")}
state = {_quote(home / "state")}
[grpc]
  address = {_quote(where.containerd_socket)}
[plugins."io.containerd.internal.v1.opt"]
  path = {_quote(home / "opt")}
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[{cri}]
  sandbox_image = {_quote(SANDBOX_IMAGE)}
  disable_apparmor = true
  # Not every machine lets root lower an OOM score, and then no container starts at all.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_tcp_service = true
  [{cri}.cni]
    bin_dir = {_quote(where.cni_bin)}
    conf_dir = {_quote(where.cni_conf)}
  [{cri}.registry]
    config_path = {_quote(where.registry_hosts)}
  [{cri}.containerd]
    default_runtime_name = {_quote(binaries.runtime)}
  [{cri}.containerd.runtimes.{binaries.runtime}]
    runtime_type = "io.containerd.runc.v2"
    [{cri}.containerd.runtimes.{binaries.runtime}.options]
      BinaryName = {_quote(binaries.runtime_path)}
      SystemdCgroup = false
"""


def cni_config(where: layout.Layout) -> str:
    """One plugin, ours: it asks the kcilet over a unix socket, which wires the pod."""
    return json.dumps(
        {"cniVersion": "0.3.1", "name": "kci", "type": "kci-cni", "socket": str(where.cni_socket)}, indent=1
    )


def registry_hosts(registry_port: int, *, public_is_local: bool, node_image: bool = False) -> dict[str, str]:
    """hosts.toml of each registry that our local one answers for.

    Of the guide's registry it has one image: any other is asked for there.
    """
    local = f"http://127.0.0.1:{registry_port}"
    found = {LOCAL_REGISTRY: _hosts(local, local)}
    if public_is_local:
        found[PUBLIC_REGISTRY] = _hosts(local, local)
    if node_image:
        found[NODE_REGISTRY] = _hosts(local, f"https://{NODE_REGISTRY}")
    return found


def _hosts(mirror: str, server: str) -> str:
    return f'server = {_quote(server)}\n[host.{_quote(mirror)}]\n  capabilities = ["pull", "resolve"]\n'


def command(where: layout.Layout, binaries: Binaries, machine: settings.Machine) -> commands.Command:
    return commands.Command(
        argv=(binaries.containerd, "--config", str(where.containerd_config)),
        env={"PATH": machine.path, **machine.proxies},
        version=binaries.containerd_version,
        probe=commands.SocketProbe(where.containerd_socket),
    )


def _quote(value: object) -> str:
    return json.dumps(str(value))


def runtime_version(name: str, machine: settings.Machine) -> tuple[int, ...] | None:
    """None if it is not installed. Blocking."""
    path = shutil.which(name, path=machine.path)
    if path is None:
        return None
    found = re.search(r"\bversion (\d+)\.(\d+)", _output(path, "--version"))
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.StackError(f"cannot run {argv[0]}: {error}; {INSTALL}") from error
