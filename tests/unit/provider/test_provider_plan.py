"""From a pod to the request that creates its group, or to the reasons why it cannot be."""

import msgspec
import pytest
from fakes import vnode_world

from kci.contract import groups
from kci.kit import secret
from kci.kube import models
from kci.provider import annotations, instances
from kci.provider.plan import group, names, size
from kci.vnode import provider

UID = "6f0c1a2b-0000-4000-8000-123456789abc"
SUBNET = "11111111-1111-4111-8111-111111111111"
SECURITY = "22222222-2222-4222-8222-222222222222"
DEFAULTS = group.Defaults(
    cluster_id="c1",
    node_name="vn",
    cluster_dns=("10.0.0.10", "10.0.0.11"),
    node_dns=("9.9.9.9",),
    subnet_id=SUBNET,
    security_group_ids=(SECURITY,),
)


def pod(*, name="web", notes=None, resources=(), namespace="default"):
    base = vnode_world.pod(UID, name=name, namespace=namespace)
    containers = tuple(
        models.Container(name=f"c{number}", resources=models.ResourceRequirements(**one))
        for number, one in enumerate(resources or [{}])
    )
    return msgspec.structs.replace(
        base,
        metadata=msgspec.structs.replace(base.metadata, annotations=notes or {}),
        spec=msgspec.structs.replace(base.spec, containers=containers),
    )


def planned(target, defaults=DEFAULTS, *, with_pod_uuid=True):
    assert group.find_refusals(target, defaults) == []
    return group.to_group(target, defaults, kubeconfig=secret.Secret("kube"), with_pod_uuid=with_pod_uuid)


def test_the_request_has_everything_that_cluster_mode_needs():
    request = planned(pod())
    groups.check_create(request)
    assert request.container_group_name == f"default-web-{UID}"
    assert {label.key: label.value for label in request.label} == {
        "cluster-id": "c1",
        "namespace": "default",
        "pod-name": "web",
        "node-name": "vn",
        "pod-uuid": UID,
    }
    assert request.cluster_dns == "10.0.0.10,10.0.0.11"
    assert request.machine_dns_config.name_server == ("9.9.9.9",)
    assert (request.kube_config, request.kube_proxy.enabled) == ("kube", False)


def test_a_service_that_does_not_know_the_uid_label_is_not_sent_it():
    assert "pod-uuid" not in {label.key for label in planned(pod(), with_pod_uuid=False).label}


def test_annotations_win_over_the_nodes_defaults():
    other, one, two = ("3" * 8 + "-3333-4333-8333-" + "3" * 11 + end for end in "123")
    request = planned(
        pod(
            notes={
                annotations.SUBNET: other,
                annotations.SECURITY_GROUPS: f"{one}, {two}",
                annotations.KUBE_PROXY: "true",
            }
        )
    )
    assert (request.subnet_id, request.security_group_id) == (other, (one, two))
    assert request.kube_proxy.enabled


@pytest.mark.parametrize(
    ("notes", "resources", "expected"),
    [
        ({}, [{}], (2.0, 4.0)),
        # What was named in an annotation is taken as it is, whatever the containers say.
        (
            {annotations.CPU: "4", annotations.MEMORY: "8"},
            [{"limits": {"cpu": "1", "memory": "1Gi"}}],
            (4.0, 8.0),
        ),
        ({}, [{"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m"}}], (0.5, 1.0)),
        ({}, [{"requests": {"cpu": "250m", "memory": "512Mi"}}] * 3, (0.75, 1.5)),
        ({}, [{"limits": {"cpu": "100m"}}, {"limits": {"cpu": "200m"}}], (0.3, 4.0)),
        ({}, [{"limits": {"memory": "100M"}}], (2.0, 0.094)),
        ({}, [{"limits": {"cpu": "1", "memory": "1"}}], (1.0, 0.001)),
        ({}, [{"limits": {"cpu": "0.0001", "memory": "1Gi"}}], (0.001, 1.0)),
    ],
)
def test_the_size_is_what_was_asked_for_rounded_up(notes, resources, expected):
    target = pod(notes=notes, resources=resources)
    wishes, _ = annotations.read(notes)
    assert size.choose_size(target, wishes) == size.Size(*expected)


@pytest.mark.parametrize(
    ("target", "defaults", "reason", "words"),
    [
        (pod(notes={annotations.CPU: "4"}), DEFAULTS, "InvalidAnnotation", annotations.MEMORY),
        (pod(notes={annotations.MEMORY: "4"}), DEFAULTS, "InvalidAnnotation", annotations.CPU),
        (
            pod(notes={annotations.CPU: "many", annotations.MEMORY: "4"}),
            DEFAULTS,
            "InvalidAnnotation",
            "number of cores",
        ),
        (
            pod(notes={annotations.CPU: "nan", annotations.MEMORY: "4"}),
            DEFAULTS,
            "InvalidAnnotation",
            "number of cores",
        ),
        (pod(notes={annotations.SECURITY_GROUPS: "a,b,c,d"}), DEFAULTS, "InvalidAnnotation", "1 to 3"),
        (pod(notes={annotations.KUBE_PROXY: "yes"}), DEFAULTS, "InvalidAnnotation", "'true' or 'false'"),
        (
            pod(),
            group.Defaults(cluster_id="c1", node_name="vn", security_group_ids=(SECURITY,)),
            "MissingSubnet",
            "KCI_SUBNET_ID",
        ),
        (
            pod(),
            group.Defaults(cluster_id="c1", node_name="vn", subnet_id=SUBNET),
            "MissingSecurityGroup",
            "KCI_SECURITY_GROUP_IDS",
        ),
        (pod(name="n" * 64), DEFAULTS, "NameTooLong", "64 characters"),
        (pod(resources=[{"limits": {"cpu": "300"}}]), DEFAULTS, "TooLarge", "300 cores"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_and_the_remedy(target, defaults, reason, words):
    (refusal,) = group.find_refusals(target, defaults)
    assert refusal.reason == reason
    assert words in refusal.message


@pytest.mark.parametrize("name", ["a", "n" * 63, f"{'n' * 27}.{'m' * 35}"])
@pytest.mark.parametrize("namespace", ["d", "s" * 63])
def test_a_groups_name_fits_and_leads_back_to_the_pod(name, namespace):
    made = names.to_name(pod(name=name, namespace=namespace))
    assert len(made) <= 128
    assert names.to_uid(made) == UID
    groups.check_create(msgspec.structs.replace(planned(pod()), container_group_name=made))


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("Pending", provider.Phase.PENDING),
        ("ImagePulling", provider.Phase.PENDING),
        ("Running", provider.Phase.RUNNING),
        ("Succeeded", provider.Phase.ENDED),
        ("CreateError", provider.Phase.CREATE_FAILED),
        ("Surprise", provider.Phase.UNKNOWN),
    ],
)
def test_a_groups_status_is_an_instances_phase(status, phase):
    seen = groups.ContainerGroup(
        container_group_id="g", container_group_name=f"default-web-{UID}", status=status
    )
    assert instances.to_instance(seen) == provider.Instance("g", UID, phase)


def test_a_group_of_which_nobody_knows_the_pod_is_left_alone():
    seen = groups.ContainerGroup(
        container_group_id="g", container_group_name="made-by-hand", status="Running"
    )
    assert instances.to_instance(seen) is None
