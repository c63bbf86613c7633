"""The doctor's remedies act on the stack that it examined, and not on another one or the machine."""

import datetime
import ipaddress
import re

import pytest

from kci.doctor.findings import cluster, dns, kci, machine, node, stack
from kci.kube import models, signing_requests
from kci.stack import record, settings, typed
from kci.vnode import node as nodes

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
AGO = NOW - datetime.timedelta(days=1)
NETNS = "nsenter --net=/run/netns/n1 "
OPTION = "--state-dir /srv/b"
PLACE = typed.Place(settings.Settings(state_dir="/srv/b", netns="n1"))
# Commands that see, or change, the network namespace that they are typed in.
OF_NETWORK = re.compile(r"(?<![\w-])(?:kubectl (?!logs)|sysctl -w net\.|ip route |nft |iptables )")
OF_STACK = re.compile(r"\bkci (?:up|down|status|doctor|subnets?|security-groups?|credentials)\b[^|;&,:()]*")


def supervisor(state, *, is_alive=False, is_locked=False):
    account = record.State(run_id="r", boot_id="b", state=state, supervisor=None, started_at="")
    return stack.judge_supervisor(stack.Supervisor(account, is_alive=is_alive, is_locked=is_locked), PLACE)


def request(*conditions, by="system:node:vk"):
    asked = signing_requests.plan("vk", "10.0.0.1")[1]
    sent = signing_requests.to_object(
        "one", asked, signing_requests.request_pem(signing_requests.new_key(), asked)
    )
    seen = models.CertificateSigningRequest(
        metadata=models.ObjectMeta(name="one"),
        spec=models.CertificateSigningRequestSpec(
            request=sent["spec"]["request"], signer_name=asked.signer, username=by
        ),
        status=models.CertificateSigningRequestStatus(
            conditions=tuple(models.PodCondition(type=kind, status="True") for kind in conditions)
        ),
    )
    return cluster.judge_requests([seen], "vk", "system:node:vk", PLACE)


def virtual(**spec):
    return models.Node(
        metadata=models.ObjectMeta(name="vk", labels={"type": "virtual-kubelet"}),
        spec=models.NodeSpec(**spec),
    )


def told(taint):
    return nodes.NodeSettings(name="vk", address="10.0.0.1", kubelet_port=1, version="v", taints=(taint,))


READY = record.StackState.READY
PART = stack.Part(record.PartRecord(name="etcd"), is_alive=False, answer="")
SERVED = node.Served(frozenset(), AGO, is_of_cluster=None)
LINKS = stack.Links("kci-1", "10.88.0.1", has_gateway=False, forwards=False, unguarded=("10.88.0.0/16",))
NETWORK = ipaddress.IPv4Network("10.9.0.0/16")
TAINT = models.Taint(key="k", effect="NoSchedule")
FINDINGS = [
    supervisor(record.StackState.STOPPED),
    supervisor(record.StackState.FAILED),
    supervisor(READY),
    supervisor(READY, is_alive=True),
    supervisor(record.StackState.STARTING, is_alive=True, is_locked=True),
    stack.judge_part(PART, PLACE),
    *stack.judge_certificates([stack.Certificate("a", AGO, AGO)], NOW, PLACE),
    *stack.judge_links(LINKS, PLACE),
    *stack.judge_reserved([("s", "10.9.1.0/24")], [NETWORK], PLACE),
    stack.judge_store(stack.Store(exists=True, is_locked=False), PLACE),
    machine.judge_privileges(1000, PLACE),
    machine.judge_ranges("cannot use the range", PLACE, pods="", services=""),
    *kci.judge_temporary([kci.TemporaryKeys("ConfigMap a", AGO)], NOW, PLACE),
    kci.judge_subnet(kci.Networks("", ()), PLACE),
    kci.judge_subnet(kci.Networks("s", ()), PLACE),
    kci.judge_subnet(kci.Networks("s", (), has_subnet=True, free_addresses=0), PLACE),
    *kci.judge_security_groups(kci.Networks("s", ()), PLACE),
    *kci.judge_security_groups(kci.Networks("s", ("g",)), PLACE),
    *kci.judge_security_groups(
        kci.Networks("s", ("g",), has_subnet=True, subnet_vpc="v", group_vpcs=(("g", "w"),)), PLACE
    ),
    *request(),
    *request("Denied"),
    *request(by="mallory"),
    cluster.judge_services("system:node:vk", PLACE, may=False, is_needed=True),
    *node.judge_node(None, "vk", PLACE, log="tail /l"),
    *node.judge_node(virtual(unschedulable=True), "vk", PLACE, log="tail /l")[1:],
    node.judge_taints(virtual(), told(TAINT), PLACE),
    node.judge_proxy("", "x509: unknown", "vk", PLACE, log="tail /l"),
    node.judge_unserved("10.0.0.1:10250", "no TLS", PLACE),
    *node.judge_served(SERVED, PLACE, expected=(), now=NOW),
    dns.judge_none(PLACE),
    dns.judge_reply(dns.Reply("10.0.0.10", code=3), PLACE, name="n", is_here=True),
]


@pytest.mark.parametrize("found", FINDINGS, ids=lambda one: one.text[:60])
def test_what_is_to_be_typed_names_the_stacks_folder_and_network_namespace(found):
    said = found.remedy or found.text
    of_network = [one.start() for one in OF_NETWORK.finditer(said)]
    assert all(said[:start].endswith(NETNS) for start in of_network), said
    of_stack = OF_STACK.findall(said)
    assert all(OPTION in one for one in of_stack), said
    assert of_network or of_stack, said
