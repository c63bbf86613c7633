"""A containerd of a test's own: in its own namespaces, with its own root and socket, and an image registry.

Use it by importing `containerd` into a conftest.py. Everything it starts dies with one process, and
what would outlive that (the network namespace, cgroups, the folder) is removed at the end.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

import canaries
import needs
import pytest

from kci.stack import containerd as stack_containerd
from kci.stack import layout, settings
from kci.stack.images import catalogue

# The network namespace is our own, so any port is free.
REGISTRY_PORT = 5000
_START_S = 30
_CGROUPS = pathlib.Path("/sys/fs/cgroup")


@dataclasses.dataclass(frozen=True)
class Containerd:
    """A running containerd.

    `pid` is the first process in its namespaces, for `nsenter --target`: containerd itself, or with
    `comes_back` what starts it again. `cgroup` is a name that tests make their cgroups under;
    `where` names its files: `cni_conf` and `cni_bin` are empty, put a network configuration and its
    plugin there before the first sandbox.
    """

    where: layout.Layout
    socket: pathlib.Path
    netns: str
    pid: int
    cgroup: str

    def inside(self, *command, check=True):
        """Run a command in its network namespace and return what it printed."""
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.netns}", *map(str, command)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ctr(self, *arguments):
        return self.inside("ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments)

    def pull(self, image):
        self.ctr("images", "pull", "--hosts-dir", self.where.registry_hosts, image)


@pytest.fixture(scope="session")
def containerd():
    """One containerd for the whole run."""
    needs.demand(why_not())
    with running() as started:
        yield started


def why_not():
    """Why this machine cannot run a containerd of our own, or nothing."""
    if os.geteuid() != 0:
        return "a containerd of our own needs root"
    programs = ("containerd", "ctr", "runc", "ip", "nsenter", "setpriv", "unshare")
    missing = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (run 'make install')" if missing else ""


@contextlib.contextmanager
def running(*, comes_back=False):
    """A containerd with the catalogue's images to pull, for as long as the block runs. One that comes back
    may be killed: containers outlive it, and it is started again half a second later.
    """
    with machine() as (where, name), booted(where, name, comes_back=comes_back) as started:
        yield started


@contextlib.contextmanager
def machine():
    """All that a containerd needs, as its layout and its name; it can be booted several times."""
    name = f"kci-test-{uuid.uuid4().hex[:8]}"
    root = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-"))
    where = layout.Layout(root)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        _prepare(where)
        subprocess.run(["ip", "netns", "add", name], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        stack.enter_context(
            _process(
                root / "registry.log", name,
                sys.executable, "-m", "kci.stack.images.registry",
                "--listen", f"127.0.0.1:{REGISTRY_PORT}", "--store", where.registry,
            )
        )  # fmt: skip
        _wait_until(
            lambda: "ready" in (root / "registry.log").read_text(),
            "the registry answers",
            root / "registry.log",
        )
        yield where, name


@contextlib.contextmanager
def booted(where, name, *, comes_back=False):
    """From power on to power off: at the end everything that runs is gone at once, with mounts and cgroups,
    and what lies on the disk stays. As after any boot, containerd's folder of what runs is empty.
    """
    root = where.root
    shutil.rmtree(where.containerd / "state", ignore_errors=True)
    # The cgroup2 mount of a hybrid machine stops crun; a process id namespace ends everything at once.
    daemon = f"containerd --config {where.containerd}/config.toml"
    again = f"while :; do {daemon} & echo $! > {root}/containerd.pid; wait $!; sleep 0.5; done"
    script = (
        "mount --make-rshared / && { umount /sys/fs/cgroup/unified 2>/dev/null; "
        f"{again if comes_back else f'exec {daemon}'}; }}"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_cgroups, name)
        unshare = stack.enter_context(
            _process(
                root / "containerd.log", name,
                "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
                "--mount-proc", "sh", "-c", script,
            )
        )  # fmt: skip
        _wait_until(lambda: _answers(where), "containerd answers", root / "containerd.log")
        yield Containerd(where, where.containerd_socket, name, _child_of(unshare.pid), name)


def _prepare(where):
    """What `kci up` writes for its own containerd, and the images."""
    machine = settings.read_machine()
    binaries = stack_containerd.find_binaries(settings.Runtime.RUNC, machine)
    for folder in (where.cni_conf, where.cni_bin):
        folder.mkdir(parents=True)
    hosts = stack_containerd.registry_hosts(REGISTRY_PORT, public_is_local=True, node_image=True)
    for host, text in hosts.items():
        (where.registry_hosts / host).mkdir(parents=True)
        (where.registry_hosts / host / "hosts.toml").write_text(text)
    (where.containerd / "config.toml").write_text(stack_containerd.config(where, binaries))
    catalogue.ensure_store(where.registry, pathlib.Path(machine.cache_dir), print)


@contextlib.contextmanager
def _process(log, netns, *command):
    with log.open("w") as output:
        process = subprocess.Popen(
            # Should the tests be killed, this goes with them.
            ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{netns}", *map(str, command)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        children = [_child_of(process.pid)]
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        _wait_until(lambda: not any(_is_alive(child) for child in children), "its processes end", log)
    # Registry keys, tokens and signatures of the tests pass through them.
    assert not list(canaries.Canaries().find(log.read_bytes())), f"{log.name} holds a secret"


def _child_of(pid):
    """The one child of a process, 0 if it has none."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _is_alive(pid):
    return pid != 0 and pathlib.Path(f"/proc/{pid}").exists()


def _answers(where):
    command = ["ctr", "--address", where.containerd_socket, "version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


def _wait_until(holds, what, log):
    deadline = time.monotonic() + _START_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {_START_S} s: {what}\n{log.read_text()}"
        time.sleep(0.05)


def _remove_cgroups(name):
    """The containers' processes are gone, so their folders can go, the deepest first."""
    for top in {*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")}:
        for folder, _, _ in os.walk(top, topdown=False):
            pathlib.Path(folder).rmdir()
