"""Where everything of a stack lies below its state folder, and the names it takes on the machine. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib


@dataclasses.dataclass(frozen=True)
class Layout:
    """Paths and names of one stack. Names outside the folder carry its hash, so stacks never meet."""

    root: pathlib.Path

    @property
    def tag(self) -> str:
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:6]

    @property
    def bridge(self) -> str:
        return f"kci-{self.tag}"

    @property
    def cgroup_parent(self) -> str:
        return f"kci-{self.tag}"

    # ---- the stack's own files ----

    @property
    def lock(self) -> pathlib.Path:
        return self.root / "lock"

    @property
    def choices(self) -> pathlib.Path:
        return self.root / "stack.json"

    @property
    def launch(self) -> pathlib.Path:
        return self.root / "launch.json"

    @property
    def launch_before(self) -> pathlib.Path:
        """The launch whose pods a start takes over, until it has."""
        return self.root / "launch.before.json"

    @property
    def state(self) -> pathlib.Path:
        return self.root / "state.json"

    @property
    def down_request(self) -> pathlib.Path:
        return self.root / "down.json"

    @property
    def identity(self) -> pathlib.Path:
        return self.root / "identity.json"

    @property
    def kubeconfig(self) -> pathlib.Path:
        return self.root / "kubeconfig"

    @property
    def env_file(self) -> pathlib.Path:
        return self.root / "kci.env"

    @property
    def logs(self) -> pathlib.Path:
        return self.root / "logs"

    def log(self, part: str) -> pathlib.Path:
        return self.logs / f"{part}.log"

    # ---- control plane ----

    @property
    def audit_policy(self) -> pathlib.Path:
        return self.root / "audit.yaml"

    @property
    def audit_log(self) -> pathlib.Path:
        # Not *.log: the API server bounds this one itself.
        return self.logs / "audit.jsonl"

    @property
    def pki(self) -> pathlib.Path:
        return self.root / "pki"

    @property
    def etcd_config(self) -> pathlib.Path:
        return self.root / "etcd.yaml"

    @property
    def etcd(self) -> pathlib.Path:
        return self.root / "etcd"

    def kubeconfig_of(self, program: str) -> pathlib.Path:
        return self.root / "kubeconfigs" / program

    @property
    def corefile(self) -> pathlib.Path:
        return self.root / "Corefile"

    # ---- containerd ----

    @property
    def containerd(self) -> pathlib.Path:
        return self.root / "containerd"

    @property
    def containerd_config(self) -> pathlib.Path:
        return self.containerd / "config.toml"

    @property
    def containerd_socket(self) -> pathlib.Path:
        return self.containerd / "containerd.sock"

    @property
    def cni_bin(self) -> pathlib.Path:
        return self.containerd / "cni" / "bin"

    @property
    def cni_conf(self) -> pathlib.Path:
        return self.containerd / "cni" / "conf"

    @property
    def registry_hosts(self) -> pathlib.Path:
        return self.containerd / "certs.d"

    # ---- our programs ----

    @property
    def registry(self) -> pathlib.Path:
        return self.root / "registry"

    @property
    def kcilet(self) -> pathlib.Path:
        return self.root / "kcilet"

    @property
    def kcilet_socket(self) -> pathlib.Path:
        return self.kcilet / "kcilet.sock"

    @property
    def cni_socket(self) -> pathlib.Path:
        return self.kcilet / "cni.sock"

    @property
    def service_database(self) -> pathlib.Path:
        return self.root / "service" / "kci.db"

    @property
    def encryption_key(self) -> pathlib.Path:
        return self.root / "service" / "encryption.key"

    @property
    def node_pki(self) -> pathlib.Path:
        return self.root / "node"
