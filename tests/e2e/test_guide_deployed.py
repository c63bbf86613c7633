"""The whole guide, as docs/guide.md says it: a stack whose first node has no taint runs the guide's
Deployment as a pod, which is a second node and has pods of its own.

The page is run as far as a test needs it; what it leaves to be seen is looked at in between. The tests stand
in the page's order.
"""

import dataclasses
import itertools
import json
import pathlib

import doc_pages
import guard as guards
import guide_samples as samples
import history
import leftovers
import line as lines
import pytest
import yaml
from guide_samples import NODE
from line import IDLE, eventually, pod

from kci.stack import settings
from kci.stack.images import catalogue, virtualkubelet

pytestmark = pytest.mark.e2e

PAGE = "docs/guide.md"
SECOND = "virtual-kubelet01"
SYSTEM = "kube-system"
OF_THE_NODE = "k8s-app=virtual-kubelet"
KUBELET_PORT = 10250
# A reader's own cluster is this stack's, so each value is the one that the page has found by then.
ANSWERS = {
    "REGISTRY/": "registry.local/",
    "your-access-key": "$KCI_ACCESS_KEY",
    "your-secret-key": "$KCI_SECRET_KEY",
    "your-region": "$KCI_REGION",
    "your-cluster-id": "$KCI_CLUSTER_ID",
    "your-subnet-id": "$KCI_SUBNET_ID",
    "your-security-group-id": "$KCI_SECURITY_GROUP_IDS",
    "your-resolver": "$NODE_DNS",
}
# As deploy/ has it.
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclasses.dataclass(frozen=True)
class Guided:
    """A stack on which the page is being run, in a folder with its files."""

    line: lines.Line
    page: doc_pages.Reading
    folder: pathlib.Path
    guard: guards.Guard


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """The cluster of the page's first section; at the end the rest of the page, which leaves nothing."""
    # Built out here: in the stack's network namespace there is no package index.
    cache = pathlib.Path(settings.read_machine().cache_dir)
    catalogue.ensure_store(tmp_path_factory.mktemp("store"), cache, print, [catalogue.NODE])
    folder = tmp_path_factory.mktemp("reader")
    line = lines.new_line()
    before = leftovers.machine(line.state_dir)
    doc_pages.lay_out(folder, netns=line.netns, state_dir=line.state_dir)
    values = {
        "kci up ": f"kci up {' '.join(guards.UP)} ",
        "/var/lib/kci": str(line.state_dir),
        **ANSWERS,
    }
    try:
        with doc_pages.reading(
            PAGE, folder, environment=doc_pages.environment(folder), values=values
        ) as page:
            page.until("Deploy the virtual node")
            guard = guards.Guard(line)
            guard.start()
            try:
                yield Guided(line, page, folder, guard)
            finally:
                guard.stop()
            page.to_end()
            assert not line.state_dir.exists()
    finally:
        line.kci("down", "--purge", check=False)
        left = leftovers.processes(str(line.state_dir), line.netns)
        after = leftovers.machine(line.state_dir)
    assert not left
    assert [what for what, seen in after.items() if seen - before[what]] == []


@pytest.fixture(scope="module")
def second(guided):
    """With the second node."""
    guided.page.until("Run pods on it")
    return guided


# ---- the first node alone --------------------------------------------------------------------------------


def test_a_daemon_set_makes_one_refused_pod_and_affinity_keeps_it_away(guided):
    samples.check_daemon_set(guided.line, "agent")


@pytest.mark.guide("form image")
def test_the_image_runs_as_a_pod_by_our_name_and_the_guides_without_rights(guided):
    line = guided.line
    names = {"ours": virtualkubelet.OWN_REFERENCE, "guides": virtualkubelet.GUIDE_REFERENCE}
    for name, image in names.items():
        container = {"image": image, "args": ["--help"], "securityContext": CONFINED}
        line.apply(
            pod(name, container=container, restartPolicy="Never", securityContext={"runAsNonRoot": True})
        )
    for name in names:
        eventually(lambda name=name: phase(line, name) == "Succeeded", what=f"{name} has ended")
        assert line.kubectl("logs", name).startswith("usage: virtual-kubelet")
        line.kubectl("delete", "pod", name)


def phase(line, name):
    seen = line.get("pod", name)["status"]
    assert seen["phase"] != "Failed", json.dumps(seen)
    return seen["phase"]


# ---- the second node -------------------------------------------------------------------------------------


@pytest.mark.guide("form deployment", "form node", "env VKUBELET_POD_IP", "env KCI_REQUEST_INTERNAL")
def test_the_guides_deployment_runs_on_the_first_node_and_is_the_second(second):
    line = second.line
    program = the_program(line)
    assert program["spec"]["nodeName"] == NODE
    node = line.get("node", SECOND)
    addresses = {one["type"]: one["address"] for one in node["status"]["addresses"]}
    assert addresses["InternalIP"] == program["status"]["podIP"]
    assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == KUBELET_PORT
    assert "taints" not in node["spec"]
    for name in (NODE, SECOND):
        samples.check_row(line, name)
    # The API server itself asks there, and knows whom it asks by a certificate that the cluster issued.
    listed = eventually(lambda: line.kubectl("get", "--raw", f"/api/v1/nodes/{SECOND}/proxy/pods"))
    assert json.loads(listed)["items"] == []


def the_program(line):
    """The pod of the Deployment; while there is another, it is not looked at."""
    found = list(line.pods(OF_THE_NODE, namespace=SYSTEM).values())
    assert len(found) == 1, found
    return found[0]


@pytest.mark.guide("form deployment")
def test_its_program_never_runs_on_the_node_that_it_serves(second):
    line = second.line
    template = yaml.safe_load((second.folder / "vk.yaml").read_text())["spec"]["template"]
    on_second = {"kubernetes.io/hostname": SECOND}

    def copy(name, **spec):
        metadata = {"name": name, "namespace": SYSTEM, "labels": {"app": name}}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {**template["spec"], "nodeSelector": on_second, **spec},
        }

    # As the manifest has it, the scheduler keeps it off; as Kingsoft Cloud's own has it, the node does.
    line.apply(copy("kept-off"), copy("refused", affinity={}))
    body = eventually(lambda: samples.refused(line, "app=refused", SYSTEM), what="it is refused")
    assert body["spec"]["nodeName"] == SECOND
    samples.check_refused(
        line, body, "OwnNode", "spec.containers[0]", "keep the pod off that node by a nodeAffinity"
    )
    eventually(
        lambda: "PodScheduled Unschedulable" in conditions(line, "kept-off"), what="the scheduler has looked"
    )
    line.kubectl("delete", "pod", "--namespace", SYSTEM, "kept-off", "refused")


def conditions(line, name):
    seen = line.get("pod", "--namespace", SYSTEM, name)["status"].get("conditions", [])
    return [f"{one['type']} {one.get('reason', '')}" for one in seen]


@pytest.mark.guide("flag --disable-taint", "form tolerations")
def test_both_of_the_guides_samples_come_to_it_as_they_are_written(second):
    line = second.line
    # Both nodes are what the samples ask for.
    line.kubectl("cordon", NODE)
    try:
        for name in (samples.BY_AFFINITY, samples.BY_TOLERATION):
            line.apply(samples.deployment(name))
            pods = line.wait_pods_ready(f"app={name}", 3)
            assert {body["spec"]["nodeName"] for body in pods.values()} == {SECOND}
            samples.remove(line, "deployment", name)
    finally:
        line.kubectl("uncordon", NODE)


@pytest.mark.guide("form deployment")
def test_its_pods_are_used_as_any_pods(second):
    """Logs, a command, a port, more of them, others in their place: the page says what is seen."""
    second.page.until("Change the virtual node")
    pods = second.line.wait_pods_ready("app=nginx", 4)
    assert {body["spec"]["nodeName"] for body in pods.values()} == {SECOND}


@pytest.mark.guide("form deployment")
def test_a_rolling_update_of_its_program_disturbs_nothing_and_one_copy_acts_at_a_time(second):
    line = second.line
    second.page.until("Change the virtual node")
    before, old = running(line), the_program(line)
    assert len(before) == 4
    watched = "/api/v1/namespaces/default/pods?labelSelector=app%3Dnginx"
    with lines.Watch(line, watched) as watch:
        second.page.until("Remove it")
        new = eventually(lambda: the_program(line), what="the former copy is gone")
        eventually(
            lambda: new["status"]["podIP"] in json.dumps(line.get("node", SECOND)["status"]["addresses"]),
            what="the node has its new program's address",
        )
        # The new one is asked, and does what it is for.
        eventually(lambda: line.kubectl("exec", "deployment/nginx-kci", "--", "echo", "here") == "here\n")
        line.apply(on_second("later"))
        line.wait_ready("pod/later")
        line.kubectl("delete", "pod", "later")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert running(line) == before
    assert all(lines.is_ready(body) for states in watch.objects().values() for body in states)
    assert acting(second.guard.history.read()) == [old["status"]["podIP"], new["status"]["podIP"]]


def on_second(name):
    return pod(name, IDLE, nodeSelector={"kubernetes.io/hostname": SECOND})


def running(line):
    """Of the sample's pods: processes, addresses and restarts."""
    pods = {body["metadata"]["uid"]: body for body in line.pods("app=nginx").values()}
    live = line.live_instances()
    return {uid: (live[uid], lines.restarts(body)) for uid, body in pods.items()}


def acting(seen: history.History):
    """The addresses of the copies that wrote as the second node, one after another; one that came back would
    be there twice.
    """
    writes = [
        one.source
        for one in seen.writes
        if one.is_done and one.user == f"system:node:{SECOND}" and one.agent.startswith("virtual-kubelet/")
    ]
    return [source for source, _ in itertools.groupby(writes)]


def test_no_invariant_was_broken_and_no_secret_told(second):
    assert second.guard.check() == []
    second.guard.at_end()
