"""From a pod to the request that creates its group, or to the reasons why it cannot be."""

import dataclasses

import msgspec
import pytest
from fakes import vnode_world

from kci.contract import groups, packages
from kci.kit import secret
from kci.kube import bandwidth, models
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
    assert group.decide(target, defaults).refusals == ()
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


@pytest.mark.guide(
    "annotation kci-subnet-id", "annotation kci-security-group-id", "annotation kci-kube-proxy-enabled"
)
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


@pytest.mark.guide("annotation kci-retain-ip", "annotation kci-retain-ip-hours")
def test_an_address_is_retained_for_a_name_that_the_next_pod_has_as_well():
    request = planned(pod(notes={annotations.RETAIN_IP: "true", annotations.RETAIN_IP_HOURS: "48"}))
    groups.check_create(request)
    assert (request.container_group_name, request.retain_ip, request.retain_ip_hours) == (
        "default.web",
        True,
        48,
    )
    assert planned(pod(notes={annotations.RETAIN_IP: "true"})).retain_ip_hours == 24
    # Nothing is taken for a pod's own group by such a name; the label says whose it is.
    assert names.to_uid(request.container_group_name) is None
    longest = planned(pod(name="p" * 63, namespace="n" * 63, notes={annotations.RETAIN_IP: "true"}))
    groups.check_create(longest)
    plain = planned(pod(notes={annotations.RETAIN_IP: "false", annotations.RETAIN_IP_HOURS: "48"}))
    assert (plain.container_group_name, plain.retain_ip) == (f"default-web-{UID}", False)


def test_no_address_is_retained_where_the_uid_is_only_in_the_name():
    decision = group.decide(pod(notes={annotations.RETAIN_IP: "true"}), DEFAULTS)
    assert group.retain_ip_refusal(decision, with_pod_uuid=True) is None
    refusal = group.retain_ip_refusal(decision, with_pod_uuid=False)
    assert (refusal.reason, refusal.field) == (
        "RetainIpNotSupported",
        f"metadata.annotations[{annotations.RETAIN_IP}]",
    )
    assert group.retain_ip_refusal(group.decide(pod(), DEFAULTS), with_pod_uuid=False) is None


@pytest.mark.parametrize("hours", ["0", "8761", "1.5", "a day", ""])
def test_hours_are_whole_and_at_most_a_year(hours):
    _, problems = annotations.read({annotations.RETAIN_IP_HOURS: hours})
    assert "whole number of hours, 1 to 8760" in problems[0].message


@pytest.mark.parametrize(
    ("notes", "resources", "asked", "granted"),
    [
        ({}, [{}], (0, 0), (2, 4)),
        # What is named in an annotation counts, whatever the containers say.
        (
            {annotations.CPU: "4", annotations.MEMORY: "8"},
            [{"limits": {"cpu": "1", "memory": "1Gi"}}],
            (4, 8),
            (4, 8),
        ),
        ({annotations.CPU: "3", annotations.MEMORY: "5"}, [{}], (3, 5), (4, 8)),
        ({}, [{"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m"}}], (0.5, 1), (1, 1)),
        ({}, [{"requests": {"cpu": "250m", "memory": "512Mi"}}] * 3, (0.75, 1.5), (1, 2)),
        ({}, [{"limits": {"cpu": "100m"}}, {"limits": {"cpu": "200m"}}], (0.3, 0), (1, 1)),
        # In decimal units, 4 GB are less than 4 GiB; one byte more than 4 GiB is more.
        ({}, [{"limits": {"memory": "4G"}}], (0, 3.726), (1, 4)),
        ({}, [{"limits": {"memory": "4294967297"}}], (0, 4.001), (2, 8)),
        ({}, [{"limits": {"cpu": "0.0001", "memory": "1Gi"}}], (0.001, 1), (1, 1)),
        # Summed before it is rounded: four times a third of 3 GiB.
        ({}, [{"limits": {"cpu": "1", "memory": "341Mi"}}] * 3, (3, 1), (4, 4)),
    ],
)
@pytest.mark.guide("annotation kci-instance-cpu", "annotation kci-instance-memory")
def test_the_size_is_the_smallest_that_has_what_is_asked_for(notes, resources, asked, granted):
    wishes, _ = annotations.read(notes)
    choice = size.choose(pod(notes=notes, resources=resources), wishes, packages.STANDARD)
    assert choice.asked == packages.Size(*asked)
    assert choice.grant.size == packages.Size(*granted)
    assert choice.is_off_table == (bool(notes) and asked != granted)


def _container(cpu, *, is_sidecar=False):
    return models.Container(
        name=f"c{cpu}",
        resources=models.ResourceRequirements(requests={"cpu": cpu, "memory": "1Gi"}),
        restart_policy="Always" if is_sidecar else None,
    )


@pytest.mark.parametrize(
    ("steps", "cores"),
    [
        ([], 2),
        # One after the other, before the others begin.
        ([_container("1"), _container("5"), _container("3")], 5),
        ([_container("1"), _container("1")], 2),
        # A sidecar runs beside all that follows it.
        ([_container("3", is_sidecar=True)], 5),
        ([_container("5"), _container("3", is_sidecar=True)], 5),
        ([_container("3", is_sidecar=True), _container("5")], 8),
    ],
)
def test_init_containers_count_as_the_scheduler_counts(steps, cores):
    spec = models.PodSpec(containers=(_container("2"),), init_containers=tuple(steps))
    assert size.demand(spec).cores == cores


def test_a_pod_that_says_what_it_needs_as_a_whole_gets_that():
    whole = models.ResourceRequirements(limits={"cpu": "6"}, requests={"cpu": "5", "memory": "3Gi"})
    spec = models.PodSpec(containers=(_container("1"), _container("2")), resources=whole)
    assert size.demand(spec) == packages.Size(6, 3)
    # Only of one of the two: the other is what its containers need.
    spec = models.PodSpec(
        containers=spec.containers, resources=models.ResourceRequirements(requests={"cpu": "5"})
    )
    assert size.demand(spec) == packages.Size(5, 2)


@pytest.mark.guide("limit sizes")
def test_a_size_that_there_is_not_is_rounded_with_a_warning_or_refused():
    target = pod(notes={annotations.CPU: "3", annotations.MEMORY: "5"})
    lenient = group.decide(target, DEFAULTS)
    assert lenient.refusals == ()
    (warning,) = [notice for notice in lenient.notices if notice.is_warning]
    assert warning.reason == "InstanceSizeRounded"
    assert "no size of 3 cores and 5 GiB" in warning.message
    assert "4 cores and 8 GiB" in warning.message
    (refusal,) = group.decide(target, dataclasses.replace(DEFAULTS, strict_sizes=True)).refusals
    assert (refusal.reason, refusal.field) == ("SizeNotOffered", f"metadata.annotations[{annotations.CPU}]")
    assert "ask for 4 cores and 8 GiB" in refusal.message


def test_what_is_granted_is_told_and_why():
    (notice,) = group.decide(pod(resources=[{"limits": {"cpu": "3", "memory": "1Gi"}}]), DEFAULTS).notices
    assert (notice.reason, notice.is_warning) == ("Accepted", False)
    assert notice.message == "Granted 4 cores and 4 GiB: 4 cores come with 4 GiB at least"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"cpu": "2", "memory": "2Gi"}, "Container c0 has a cpu limit of 2,"),
        ({"cpu": "1", "memory": "2049Mi"}, "Container c0 has a memory limit of 2049Mi,"),
    ],
)
def test_a_limit_above_the_instance_is_told(limits, words):
    notes = {annotations.CPU: "1", annotations.MEMORY: "2"}
    target = pod(notes=notes, resources=[{"limits": limits}])
    (warning,) = [notice for notice in group.decide(target, DEFAULTS).notices if notice.is_warning]
    assert warning.reason == "LimitAboveInstance"
    assert words in warning.message


def test_while_the_sizes_are_not_known_nothing_is_said_of_them():
    target = pod(resources=[{"limits": {"cpu": "65"}}])
    decision = group.decide(target, DEFAULTS, None)
    assert (decision.choice, decision.notices, decision.refusals) == (None, (), ())
    missing = group.decide(target, dataclasses.replace(DEFAULTS, subnet_id=""), None)
    assert [refusal.reason for refusal in missing.refusals] == ["MissingSubnet"]


def test_a_nodes_own_table_counts():
    table = packages.to_table([packages.Package(3, (5,))])
    decision = group.decide(
        pod(resources=[{"limits": {"cpu": "1"}}]), dataclasses.replace(DEFAULTS, table=table)
    )
    assert decision.choice.grant.size == packages.Size(3, 5)


@pytest.mark.guide("config instanceSettings")
def test_the_nodes_instance_settings_stand_for_what_a_pod_does_not_say():
    node = dataclasses.replace(
        DEFAULTS,
        instance_settings={
            annotations.CPU: "4",
            annotations.MEMORY: "8",
            annotations.SUBNET: "node-subnet",
            annotations.KUBE_PROXY: "true",
        },
    )
    silent = group.decide(pod(), node)
    assert (silent.subnet_id, silent.kube_proxy) == ("node-subnet", True)
    assert silent.choice.grant.size == packages.Size(4, 8)
    own = group.decide(pod(notes={annotations.SUBNET: "own", annotations.KUBE_PROXY: "false"}), node)
    assert (own.subnet_id, own.kube_proxy) == ("own", False)
    # Half of the pair is refused, whatever the node says of the other half.
    for one, other in ((annotations.CPU, annotations.MEMORY), (annotations.MEMORY, annotations.CPU)):
        (refusal,) = group.decide(pod(notes={one: "2"}), node).refusals
        assert f"{one} is set without {other}" in refusal.message


@pytest.mark.guide("limit containers")
def test_more_containers_than_are_documented_run_with_a_warning():
    def warnings(count):
        decision = group.decide(pod(resources=[{}] * count), DEFAULTS)
        assert decision.refusals == ()
        return [notice.reason for notice in decision.notices if notice.is_warning]

    assert warnings(5) == []
    assert warnings(6) == ["MoreContainersThanDocumented"]


def test_limits_of_disk_are_told_as_not_held_and_those_of_memory_are_not_told():
    volumes = (
        models.Volume(name="scratch", empty_dir=models.EmptyDirVolume(size_limit="1Gi")),
        models.Volume(name="memory", empty_dir=models.EmptyDirVolume(medium="Memory", size_limit="1Gi")),
        models.Volume(name="free", empty_dir=models.EmptyDirVolume()),
    )
    limits = {"cpu": "1", "memory": "1Gi"}
    told = warnings_of(volumes, {**limits, "ephemeral-storage": "1Gi"})
    assert [notice.reason for notice in told] == ["DiskNotLimited"]
    assert told[0].message.startswith(
        "spec.volumes[0].emptyDir.sizeLimit, spec.containers[0].resources.limits[ephemeral-storage]: "
    )
    assert warnings_of(volumes[1:], limits) == []


def warnings_of(volumes, limits):
    found = pod(resources=[{"limits": limits}])
    found = msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, volumes=volumes))
    decision = group.decide(found, DEFAULTS)
    assert decision.refusals == ()
    return [notice for notice in decision.notices if notice.is_warning]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("k8s.ksyun.com/kci-instance-cpus", "is k8s.ksyun.com/kci-instance-cpu meant?"),
        ("k8s.ksyun.com/kci-subnet", "is k8s.ksyun.com/kci-subnet-id meant?"),
        ("k8s.ksyun.com/kci-security-groups", "is k8s.ksyun.com/kci-security-group-id meant?"),
        ("k8s.ksyun.com/kci-instance-mem", "is k8s.ksyun.com/kci-instance-memory meant?"),
        ("k8s.ksyun.com/instace-memory", "is k8s.ksyun.com/kci-instance-memory meant?"),
        ("k8s.ksyun.com/kci-host-alias", "is k8s.ksyun.com/kci-host-aliases meant?"),
        # The names of other things, which are no misspelt ones.
        ("k8s.ksyun.com/kci-instance-type", "known are k8s.ksyun.com/kci-instance-cpu"),
        ("k8s.ksyun.com/kci-gpu", "known are k8s.ksyun.com/kci-instance-cpu"),
        ("k8s.ksyun.com/kci-charge-type", "known are k8s.ksyun.com/kci-instance-cpu"),
        ("k8s.ksyun.com/kci-image-id", "known are k8s.ksyun.com/kci-instance-cpu"),
        ("k8s.ksyun.com/colour", "known are k8s.ksyun.com/kci-instance-cpu"),
    ],
)
def test_an_annotation_that_nobody_reads_is_told_with_the_nearest_name(key, hint):
    decision = group.decide(pod(notes={key: "1", "example.com/kci": "2"}), DEFAULTS)
    assert decision.refusals == ()
    (warning,) = [notice for notice in decision.notices if notice.is_warning]
    assert warning.reason == "UnknownAnnotation"
    assert key in warning.message
    assert hint in warning.message


@pytest.mark.guide("annotation ingress-bandwidth", "annotation egress-bandwidth")
@pytest.mark.parametrize(
    ("text", "bps"),
    [
        ("100M", 100_000_000),
        ("1G", 10**9),
        ("64k", 64_000),
        ("1.5M", 1_500_000),
        ("9600", 9600),
        ("1P", 10**15),
    ],
)
def test_bandwidths_are_bits_per_second(text, bps):
    wishes, refusals = annotations.read({bandwidth.INGRESS: text, bandwidth.EGRESS: text})
    assert refusals == []
    assert (wishes.ingress_bps, wishes.egress_bps) == (bps, bps)


@pytest.mark.guide("annotation ingress-bandwidth", "annotation egress-bandwidth")
def test_bandwidths_are_handed_on_to_a_service_that_takes_them():
    target = pod(notes={bandwidth.EGRESS: "100M"})

    def handed_on(with_bandwidth):
        return group.to_group(
            target,
            DEFAULTS,
            kubeconfig=secret.Secret("kube"),
            with_pod_uuid=True,
            with_bandwidth=with_bandwidth,
        ).bandwidth

    assert handed_on(with_bandwidth=True) == groups.Bandwidth(ingress=0, egress=100_000_000)
    assert handed_on(with_bandwidth=False) is None


@pytest.mark.guide("annotation kci-host-aliases")
def test_host_aliases_are_handed_on():
    text = '[{"ip": "10.0.0.9", "hostnames": ["registry.local", "r"]}]'
    (alias,) = planned(pod(notes={annotations.HOST_ALIASES: text})).machine_host_aliase
    assert (alias.ip, alias.hostname) == ("10.0.0.9", ("registry.local", "r"))
    assert planned(pod(notes={annotations.HOST_ALIASES: "[ ]"})).machine_host_aliase == ()


@pytest.mark.guide("limit securityGroups", "limit sizes")
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
        (
            pod(resources=[{"limits": {"cpu": "65"}}]),
            DEFAULTS,
            "TooLarge",
            "65 cores or more: the largest is 64",
        ),
        (
            pod(notes={annotations.CPU: "65", annotations.MEMORY: "4"}),
            DEFAULTS,
            "TooLarge",
            "the pod's annotations: no size has 65 cores",
        ),
        (pod(notes={bandwidth.INGRESS: "much"}), DEFAULTS, "InvalidAnnotation", "write bits per second"),
        (pod(notes={bandwidth.EGRESS: "12"}), DEFAULTS, "InvalidAnnotation", "1k to 1P"),
        (pod(notes={annotations.HOST_ALIASES: "{}"}), DEFAULTS, "InvalidAnnotation", "hostnames"),
        (
            pod(notes={annotations.HOST_ALIASES: '[{"ip": "here", "hostnames": ["a"]}]'}),
            DEFAULTS,
            "InvalidAnnotation",
            "'here', which is no address",
        ),
        (
            pod(notes={annotations.HOST_ALIASES: '[{"ip": "10.0.0.9", "hostnames": ["a b"]}]'}),
            DEFAULTS,
            "InvalidAnnotation",
            "'a b', which is no host name",
        ),
        (pod(notes={annotations.SUBNET: "a,b"}), DEFAULTS, "InvalidAnnotation", "one subnet"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_and_the_remedy(target, defaults, reason, words):
    (refusal,) = group.decide(target, defaults).refusals
    assert refusal.reason == reason
    assert refusal.field
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
