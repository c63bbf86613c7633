"""`kci up`, `status`, `down`: what the operator types."""

import contextlib
import dataclasses
import ipaddress
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys

import leftovers
import pytest
from line import IDLE, eventually, new_line, pod

from kci.stack import processes, record

pytestmark = pytest.mark.e2e


def test_status_names_every_part_and_where_things_are(line):
    seen = json.loads(line.kci("status", "-o", "json"))
    parts = {part["name"]: part for part in seen["parts"]}
    assert {
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "containerd",
    } <= parts.keys()
    assert all(
        part["state"] == "running" and part["pid"] and pathlib.Path(part["log_file"]).exists()
        for part in parts.values()
        if part.get("pid")
    )
    env_file = pathlib.Path(seen["env_file"])
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert {"KCI_ACCESS_KEY", "KCI_SECRET_KEY", "KCI_REGION", "KCI_ENDPOINT"} <= {
        row.split("=")[0] for row in env_file.read_text().splitlines()
    }
    assert seen["node_name"] == "virtual-kubelet"
    assert pathlib.Path(seen["kubeconfig"]) == line.kubeconfig


def test_unused_addresses_of_the_stack_lead_nowhere(line):
    gateway = json.loads(line.kci("status", "-o", "json"))["gateway"]
    listed = subprocess.run(line.inside("ip", "route"), capture_output=True, text=True, check=True).stdout
    unreachable = [
        ipaddress.ip_network(row.split()[1]) for row in listed.splitlines() if row.startswith("unreachable")
    ]
    services = line.get("service", "kubernetes")["spec"]["clusterIP"]
    for address in (gateway, services):
        assert any(ipaddress.ip_address(address) in network for network in unreachable), listed


def test_cgroup_folders_of_the_stack_are_real_cgroups(line):
    """On a machine with both versions, crun would make plain folders where one is left for them."""
    seen = f"/proc/{line.process('kcilet').pid}/root/sys/fs/cgroup"
    kinds = {
        str(folder): subprocess.run(
            ["stat", "--file-system", "--format=%T", folder], capture_output=True, text=True, check=True
        ).stdout.strip()
        for folder in pathlib.Path(seen).iterdir()
        if folder.is_dir() and not folder.is_symlink()
    }
    assert set(kinds.values()) <= {"cgroupfs", "cgroup2fs"}, kinds


def test_a_second_up_over_running_parts_changes_nothing(line):
    before = json.loads(line.kci("status", "-o", "json"))
    line.kci("up", "--detach", "--netns", line.netns)
    after = json.loads(line.kci("status", "-o", "json"))
    assert [part.get("pid") for part in after["parts"]] == [part.get("pid") for part in before["parts"]]


def test_an_existing_cluster_gets_a_second_node_and_loses_it_again(line):
    other = dataclasses.replace(new_line(), netns=line.netns)
    given = ("--kubeconfig", str(line.kubeconfig), "--node-name", "second")
    try:
        other.kci("up", "--detach", "--netns", other.netns, *given)
        names = {part["name"] for part in json.loads(other.kci("status", "-o", "json"))["parts"]}
        assert not {"kube-apiserver", "coredns"} & names
        line.apply(pod("elsewhere", IDLE, nodeSelector={"kubernetes.io/hostname": "second"}))
        line.wait_ready("pod/elsewhere")
        assert line.get("pod", "elsewhere")["spec"]["nodeName"] == "second"
        assert line.kubectl("exec", "elsewhere", "--", "echo", "here") == "here\n"
        # Its DNS is what the cluster says of itself.
        dns = line.get("service", "kube-dns", "--namespace", "kube-system")["spec"]["clusterIP"]
        resolver = line.kubectl("exec", "elsewhere", "--", "cat", "/etc/resolv.conf")
        assert f"nameserver {dns}\n" in resolver
        line.kubectl("delete", "pod", "elsewhere", "--timeout=30s")
        assert "second" in other.kci("down")
        assert line.run_kubectl("get", "node", "second").returncode != 0
    finally:
        other.kci("down", "--purge", check=False)
    assert not other.state_dir.exists()
    assert leftovers.processes(str(other.state_dir)) == frozenset()


def refuses_to_start(stack, *options, why):
    """It says that pods go on, and keeps what they were started with."""
    asked = record.read_launch(stack.where).settings
    stack.kci("up", "--detach", "--netns", stack.netns, *options, check=False)
    told = json.loads(stack.kci("status", "-o", "json", check=False))
    assert told["state"] == "failed"
    assert why in told["failure"]
    assert "its pods go on" in told["failure"]
    assert record.read_launch(stack.where).settings == asked


@contextlib.contextmanager
def taken(stack, port):
    listen = (
        f"import socket; s = socket.create_server(('', {port})); print('listens', flush=True); s.accept()"
    )
    argv = stack.inside(sys.executable, "-c", listen)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "listens\n"
        try:
            yield
        finally:
            process.kill()


def test_after_down_nothing_is_left_and_up_brings_the_cluster_and_its_pods_back():
    stack = new_line()
    before = leftovers.machine(stack.state_dir)
    try:
        stack.kci("up", "--detach", "--netns", stack.netns)
        stack.apply(pod("stays", "echo hello; " + IDLE), pod("done", "exit 0", restartPolicy="Never"))
        stack.wait_ready("pod/stays")
        eventually(
            lambda: stack.get("pod", "done")["status"]["phase"] == "Succeeded", what="the finished pod"
        )
        uid = stack.get("pod", "stays")["metadata"]["uid"]

        stack.kci("down")
        assert leftovers.processes(str(stack.state_dir), stack.netns) == frozenset()
        now = leftovers.machine(stack.state_dir)
        assert {what: seen - before[what] for what, seen in now.items()} == {
            what: frozenset() for what in now
        }

        stack.kci("up", "--detach", "--netns", stack.netns)
        eventually(
            lambda: (
                (seen := stack.get("pod", "stays"))["metadata"]["uid"] == uid
                and seen["status"]["containerStatuses"][0]["state"].get("running")
                and seen["status"]["containerStatuses"][0]["restartCount"] >= 1
            ),
            timeout_s=60,
            what="the pod back by its restart policy",
        )
        assert stack.get("pod", "done")["status"]["phase"] == "Succeeded"

        # The supervisor is killed, and nothing is stopped: pods go on, and the next one takes over.
        stack.wait_ready("pod/stays")
        before = stack.live_instances()
        state = record.read_state(stack.where)
        assert state is not None
        assert state.supervisor is not None
        os.kill(state.supervisor.pid, signal.SIGKILL)
        refuses_to_start(stack, "--pod-cidr", "10.250.0.0/16", why="--pod-cidr")
        assert stack.live_instances() == before
        # What is refused at once has touched nothing.
        assert all(processes.is_alive(part.process) for part in state.parts if part.process)
        shims = processes.find_shims(stack.where.containerd_socket)
        with taken(stack, 9123):
            refuses_to_start(stack, "--kci-port", "9123", why="9123 is taken")
        # By now containerd was stopped to be started anew, and its pods were not.
        assert processes.find_shims(stack.where.containerd_socket) == shims
        stack.kci("up", "--detach", "--netns", stack.netns)
        stack.wait_ready("pod/stays")
        assert stack.live_instances() == before
    finally:
        stack.kci("down", "--purge", check=False)
    assert not stack.state_dir.exists()
    assert leftovers.processes(str(stack.state_dir), stack.netns) == frozenset()
