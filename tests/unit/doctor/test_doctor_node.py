"""What the doctor says of the Node object, its Lease, its kubelet API, and pods' DNS."""

import datetime

import pytest

from kci.doctor.findings import dns, finding, node
from kci.kube import models
from kci.stack import typed
from kci.vnode import node as nodes

HERE = typed.USUAL
WELL, WARNING, WRONG = finding.Level.WELL, finding.Level.WARNING, finding.Level.WRONG
UNSEEN = finding.Level.UNSEEN
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
LOG = "tail vk.log"


def condition(kind, status, reason="R"):
    return models.NodeCondition(type=kind, status=status, reason=reason, message="told")


def make_node(*conditions, labels=None, taints=(), unschedulable=False):
    return models.Node(
        metadata=models.ObjectMeta(
            name="vk", labels={"type": "virtual-kubelet"} if labels is None else labels
        ),
        spec=models.NodeSpec(taints=tuple(taints), unschedulable=unschedulable),
        status=models.NodeStatus(
            conditions=conditions or (condition("Ready", "True"), condition("DiskPressure", "False"))
        ),
    )


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        (make_node(), WELL, "the node vk is Ready"),
        (None, WRONG, "kubectl get csr; tail vk.log"),
        (make_node(labels={}), WRONG, "another --nodename"),
        (
            make_node(condition("Ready", "Unknown", "NodeStatusUnknown")),
            WRONG,
            "not Ready: NodeStatusUnknown: told",
        ),
        (make_node(condition("Ready", "True"), condition("DiskPressure", "True")), WRONG, "has DiskPressure"),
        (make_node(condition("DiskPressure", "False")), WRONG, "never said"),
        (make_node(unschedulable=True), WARNING, "kubectl uncordon vk"),
    ],
)
def test_a_node_is_told_by_its_conditions(seen, level, has):
    (found,) = node.judge_node(seen, "vk", HERE, log=LOG)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


def lease(age_s=5.0, holder="copy-1", renewed=True):
    moment = (NOW - datetime.timedelta(seconds=age_s)).isoformat()
    spec = models.LeaseSpec(
        holder_identity=holder, lease_duration_seconds=40, renew_time=moment if renewed else None
    )
    return models.Lease(spec=spec)


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        (lease(), WELL, "copy-1 renewed the Lease 5 s ago"),
        (lease(age_s=-2), WELL, "0 s ago"),
        (None, WRONG, "has no Lease"),
        (lease(renewed=False), WRONG, "has no Lease"),
        (lease(holder=""), WRONG, "nobody holds the Lease"),
        (lease(holder=None), WRONG, "start the virtual node; tail vk.log"),
        (lease(age_s=41), WRONG, "renewed 41 s ago, by copy-1"),
    ],
)
def test_a_lease_is_told_by_its_age_and_holder(seen, level, has):
    found = node.judge_lease(seen, "vk", NOW, log=LOG)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


def settings(*taints):
    return nodes.NodeSettings(name="vk", address="10.0.0.1", kubelet_port=10250, version="1", taints=taints)


def test_taints_that_are_not_as_told_come_with_the_command_that_sets_them():
    taint = nodes.DEFAULT_TAINT
    assert node.judge_taints(make_node(taints=[taint]), settings(taint), HERE).level is WELL
    assert "no taint of its own" in node.judge_taints(make_node(), settings(), HERE).text
    found = node.judge_taints(make_node(), settings(taint), HERE)
    assert found.level is WARNING
    assert found.remedy == (
        "kubectl taint node vk --overwrite virtual-kubelet.io/provider=kingsoftcloud:NoSchedule"
    )


@pytest.mark.parametrize(
    ("answer", "problem", "level", "has"),
    [
        ("ok", "", WELL, "reaches"),
        ("<html>", "", WRONG, "nothing else listens"),
        ("", "dial tcp 10.0.0.1:10250: connect: connection refused", WRONG, "VKUBELET_POD_IP:KUBELET_PORT"),
        ("", "remote error: tls: internal error", WRONG, "kubectl certificate approve"),
        ("", "x509: certificate signed by unknown authority", WRONG, "kubectl certificate approve"),
        ("", "the server answered 401: Unauthorized", WRONG, "--client-ca-file"),
    ],
)
def test_the_way_of_the_api_server_to_the_kubelet_api_is_told(answer, problem, level, has):
    found = node.judge_proxy(answer, problem, "vk", HERE, log=LOG)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


def judge_served(names=("vk", "10.0.0.1"), end=NOW + DAY, *, is_of_cluster=True):
    served = node.Served(frozenset(names), end, is_of_cluster)
    return node.judge_served(served, HERE, expected=("vk", "10.0.0.1"), now=NOW)


def test_the_certificate_of_the_kubelet_api_is_told():
    assert [one.level for one in judge_served()] == [WELL]
    assert [one.level for one in judge_served(is_of_cluster=None)] == [WELL]
    assert "ended on 2026-06-01" in judge_served(end=NOW)[0].text
    found = judge_served(("vk",), is_of_cluster=False)
    assert [one.level for one in found] == [WRONG, WARNING]
    assert "is not for 10.0.0.1" in found[0].text
    assert node.judge_unserved("10.0.0.1:10250", "no TLS", HERE).level is WRONG


def test_what_the_node_is_told_wrongly_is_told_one_by_one():
    assert [one.level for one in node.judge_settings((), ())] == [WELL]
    found = node.judge_settings(("KCI_REGION is missing: set it", "--os is 'x': linux"), ("odd; do so",))
    assert [one.level for one in found] == [WRONG, WRONG, WARNING]
    assert all(one.remedy for one in found)


def judge_reply(*, is_here=True, **told):
    return dns.judge_reply(
        dns.Reply("10.0.0.10", **told), HERE, name="kubernetes.default.svc.x", is_here=is_here
    )


def test_the_clusters_dns_is_told():
    assert judge_reply(answers=1).level is WELL
    silent = judge_reply(problem="no answer in time")
    assert silent.level is WRONG
    assert "dig @10.0.0.10 kubernetes.default.svc.x" in silent.remedy
    assert judge_reply(problem="no answer in time", is_here=False).level is UNSEEN
    assert judge_reply(code=3).level is WRONG
    assert "--cluster-domain" in judge_reply(answers=0).text
    assert dns.judge_none(HERE).level is WARNING
    assert "KCI_KUBE_PROXY=true" in dns.judge_cluster_ip("10.0.0.10").remedy
