"""A real kubelet on this machine, as one more node of a stack's cluster: what our figures are shown beside.

It has a containerd of its own with our configuration, and the plain bridge CNI plugin of Debian's
`containernetworking-plugins`, which are unpacked and not installed. All of it runs in the stack's
network namespace and in mount and process id namespaces of its own (kubelet.sh): with their first process
everything ends, also if we are killed. What is left then, its folder and its cgroup, goes when `node` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import json
import pathlib
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator

import line as lines
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kci.kit import secret
from kci.kube import config as kube_config
from kci.stack import certificates, cgroups, containerd, goprograms, layout, processes, settings
from kci.stack.images import packages

HERE = pathlib.Path(__file__).resolve().parent
NODE = "bench-kubelet"
LABEL = {"bench": "kubelet"}
# In the stack's network namespace, where neither the stack's port nor its ranges lie there.
PORT = 10350
PODS = "10.244.0.0/16"
READY_TIMEOUT_S = 60

# A pod for this node instead of the virtual one.
pod = functools.partial(lines.pod, nodeSelector=LABEL, tolerations=[{"operator": "Exists"}])


@dataclasses.dataclass(frozen=True)
class Programs:
    kubelet: pathlib.Path
    # The CNI plugins' folder.
    cni_bin: pathlib.Path


def fetch() -> Programs:
    """The kubelet that belongs to the stack's control plane, from the cache or built now (minutes), and CNI
    plugins. Before the network namespace is entered, from which no package source is reached.
    """
    machine = settings.read_machine()
    folder = pathlib.Path(machine.cache_dir) / "kubelet-source"
    (folder / "kubelet").mkdir(parents=True, exist_ok=True)
    module = goprograms.read_module()
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(module.folder / name, folder / name)
    shutil.copyfile(HERE / "kubelet.go", folder / "kubelet" / "main.go")
    # A few modules only the kubelet needs; their versions follow from those that are pinned.
    adding = msgspec.structs.replace(machine, variables={**machine.variables, "GOFLAGS": "-mod=mod"})
    binary = asyncio.run(goprograms.ensure("kubelet", adding, _progress, folder=folder))
    plugins = folder / "cni"
    if not plugins.exists():
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            packages.unpack(["containernetworking-plugins"], pathlib.Path(unpacked))
            shutil.copytree(pathlib.Path(unpacked) / "usr" / "lib" / "cni", plugins)
    return Programs(binary, plugins)


@contextlib.contextmanager
def node(stack: lines.Line, programs: Programs) -> Iterator[None]:
    """A Ready node in the stack's cluster; afterwards there is nothing left of it."""
    with tempfile.TemporaryDirectory(prefix="kci-kubelet-") as folder:
        where = layout.Layout(pathlib.Path(folder))
        argv = [
            *_prepare_containerd(stack, where, programs),
            str(programs.kubelet),
            *_prepare_kubelet(stack, where),
        ]
        _make_cgroup(where.cgroup_parent)
        # The stack's mounts are such that crun works. It ends when its standard input does: when we close it,
        # and when we are no more.
        mounts = f"--mount=/proc/{stack.process('containerd').pid}/ns/mnt"
        first = subprocess.Popen(
            stack.inside(
                *("nsenter", mounts),
                *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", str(HERE / "kubelet.sh")),
                *(str(where.root), *argv),
            ),
            stdin=subprocess.PIPE,
        )
        try:
            _wait_ready(stack, where)
            yield
        finally:
            first.communicate(timeout=30)
            cgroups.remove(where.cgroup_parent)
            stack.run_kubectl("delete", "node", NODE)


def _prepare_containerd(stack: lines.Line, where: layout.Layout, programs: Programs) -> list[str]:
    """Its files; what kubelet.sh must know of it."""
    binaries = containerd.find_binaries(settings.Runtime.AUTO, settings.read_machine())
    where.cni_conf.mkdir(parents=True)
    where.containerd_config.write_text(containerd.config(where, binaries))
    # The images come from where the stack's come from.
    where.registry_hosts.symlink_to(stack.where.registry_hosts)
    where.cni_bin.symlink_to(programs.cni_bin)
    bridge = {
        "type": "bridge",
        "bridge": NODE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(where.root / "addresses"),
            "ranges": [[{"subnet": PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    chain = {"cniVersion": "0.4.0", "name": NODE, "plugins": [bridge]}
    (where.cni_conf / "bench.conflist").write_text(json.dumps(chain))
    return [binaries.containerd, str(where.containerd_config), str(where.containerd_socket)]


def _prepare_kubelet(stack: lines.Line, where: layout.Layout) -> list[str]:
    """Its files; its flags."""
    administrator = kube_config.load(stack.kubeconfig)
    address = urllib.parse.urlsplit(administrator.server).hostname
    assert address is not None
    # One certificate for both sides: a client of the API server, and the server of its own API.
    leaf = certificates.Leaf("", "", f"system:node:{NODE}", "system:nodes", (address,), client=True)
    authority = certificates.certificate_path(stack.where.pki, certificates.CLUSTER_CA.name)
    issuer = certificates.Issuer(
        x509.load_pem_x509_certificate(authority.read_bytes()),
        certificates.load_key(
            certificates.key_path(stack.where.pki, certificates.CLUSTER_CA.name).read_bytes()
        ),
    )
    issued = certificates.issue(leaf, issuer, datetime.datetime.now(datetime.UTC))
    certificate, key = where.root / "node.crt", where.root / "node.key"
    certificate.write_bytes(issued.certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(certificates.key_pem(issued.key))
    identity = dataclasses.replace(
        administrator,
        client_certificate_pem=certificate.read_text(),
        client_key_pem=secret.Secret(key.read_text()),
    )
    where.kubeconfig.write_text(kube_config.render(identity))
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": PORT,
        "healthzPort": 0,
        "authentication": {"x509": {"clientCAFile": str(authority)}},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "containerRuntimeEndpoint": f"unix://{where.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{where.cgroup_parent}",
        "resolvConf": "",
        # It measures on whatever machine it is: with cgroup v1, with swap, with a disk that is nearly full.
        "failCgroupV1": False,
        "failSwapOn": False,
        "evictionHard": {},
    }
    (where.root / "kubelet.json").write_text(json.dumps(configuration, indent=1))
    return [
        f"--config={where.root / 'kubelet.json'}",
        f"--kubeconfig={where.kubeconfig}",
        f"--root-dir={where.root / 'kubelet'}",
        f"--hostname-override={NODE}",
        f"--node-ip={address}",
        *(f"--node-labels={name}={value}" for name, value in LABEL.items()),
    ]


def _make_cgroup(name: str) -> None:
    """The kubelet wants its root in every hierarchy; in one of ours, what it leaves there is found again."""
    unified = (cgroups.ROOT / "cgroup.controllers").exists()
    for top in [cgroups.ROOT] if unified else [path for path in cgroups.ROOT.iterdir() if path.is_dir()]:
        (top / name).mkdir(exist_ok=True)


def _wait_ready(stack: lines.Line, where: layout.Layout) -> None:
    def ready() -> bool:
        done = stack.run_kubectl("get", "node", NODE, "-o", "json")
        return done.returncode == 0 and lines.is_ready(json.loads(done.stdout))

    try:
        lines.eventually(ready, timeout_s=READY_TIMEOUT_S, what=f"the node {NODE} is Ready")
    except AssertionError as error:
        logs = (where.root / "containerd.log", where.root / "kubelet.log")
        tails = (line for log in logs for line in processes.last_lines(log, count=15))
        raise SystemExit("\n".join(["cannot get the kubelet's node Ready:", *tails])) from error


def _progress(line: str) -> None:
    print(f"\r{line[:100]:100}", end="", flush=True)
