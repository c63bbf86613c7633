"""Command lines, configuration and the order of parts."""

import dataclasses
import ipaddress
import itertools
import json
import pathlib
import tomllib

import pytest
import yaml

from kci.kit import tracing
from kci.stack import (
    addresses,
    commands,
    containerd,
    controlplane,
    coredns,
    errors,
    goprograms,
    layout,
    metricsserver,
    parts,
    preparation,
    programs,
    record,
    settings,
)

WHERE = layout.Layout(pathlib.Path("/state"))
RANGES = addresses.Ranges(ipaddress.IPv4Network("10.88.0.0/16"), ipaddress.IPv4Network("10.152.0.0/16"))
CHOICES = record.Choices(
    format=record.FORMAT,
    kci_version="0",
    cluster="",
    pod_cidr="10.88.0.0/16",
    service_cidr="10.152.0.0/16",
    etcd_port=4001,
    etcd_peer_port=4002,
    controller_manager_port=4003,
    scheduler_port=4004,
    registry_port=4005,
    dns_ready_port=4006,
    dns_metrics_port=4007,
    service_metrics_port=4008,
    kcilet_metrics_port=4009,
    node_metrics_port=4010,
    metrics_server_port=4011,
)
IDENTITY = record.Identity(
    access_key="AK", secret_key="canary-secret", cluster_id="c", subnet_id="s", security_group_id="g"
)


def control_plane():
    return controlplane.Plan(
        where=WHERE,
        binary=pathlib.Path("/cache/controlplane"),
        version="v1",
        etcd_version="v3",
        ranges=RANGES,
        choices=CHOICES,
        api_port=6443,
        cluster_domain="cluster.local",
    )


def program_plan(**asked):
    return programs.Plan(
        where=WHERE,
        asked=settings.Settings(**asked),
        ranges=RANGES,
        choices=CHOICES,
        identity=IDENTITY,
        cri_endpoint=WHERE.containerd_socket,
        runtime_handler="runc",
        path="/bin",
    )


def dns_plan(*, resolvers=()):
    return coredns.Plan(
        where=WHERE,
        binary=pathlib.Path("/cache/coredns"),
        version="v1",
        ranges=RANGES,
        choices=CHOICES,
        cluster_domain="cluster.local",
        resolvers=resolvers,
    )


def all_commands():
    plan, ours = control_plane(), program_plan()
    return [
        coredns.command(dns_plan()),
        metricsserver.command(
            metricsserver.Plan(WHERE, pathlib.Path("/cache/metrics-server"), "v0.9.0", RANGES, CHOICES)
        ),
        controlplane.etcd(plan),
        controlplane.api_server(plan),
        controlplane.controller_manager(plan),
        controlplane.scheduler(plan),
        programs.registry(ours),
        programs.service(ours),
        programs.kcilet(ours, cluster_server=f"https://{ours.ranges.gateway}:6443"),
        programs.virtual_kubelet(
            ours,
            cluster_server="https://10.88.0.1:6443",
            node_kubeconfig=pathlib.Path("/state/node/kubeconfig"),
        ),
    ]


def test_the_service_is_told_of_all_that_no_subnet_may_have():
    reserved = (addresses.Network("10.152.0.0/16"), addresses.Network("192.168.1.0/24"))
    argv = programs.service(dataclasses.replace(program_plan(), reserved=reserved)).argv
    assert [text for text in argv if "reserved" in text] == [
        "--reserved-cidr=10.152.0.0/16",
        "--reserved-cidr=192.168.1.0/24",
    ]


def test_pods_reach_the_api_server_if_it_is_here_the_clusters_dns_and_the_service():
    plan = program_plan()
    own = {"10.88.0.1:53", "10.88.0.1:53/udp", "10.88.0.1:8180"}
    assert set(programs.reachable(plan, "https://10.88.0.1:6443")) == own | {"10.88.0.1:6443"}
    assert set(programs.reachable(plan, "https://192.0.2.7")) == own | {"192.0.2.7:443"}
    assert set(programs.reachable(plan, "https://cluster.example:6443")) == own


@pytest.mark.parametrize("own", list(itertools.product([True, False], repeat=4)))
def test_each_part_comes_after_all_that_it_needs(own):
    names = ("own_control_plane", "own_containerd", "own_dns", "metrics_server")
    planned = parts.plan(**dict(zip(names, own, strict=True)))
    for number, part in enumerate(planned):
        assert set(parts.needs(part, planned)) <= set(planned[:number])


def test_every_process_is_stopped_and_the_api_server_outlives_who_talks_to_it():
    order = [*parts.STOP_BEFORE_DRAIN, *parts.STOP_AFTER_DRAIN]
    assert set(order) == set(parts.Part) - set(parts.STEPS)
    assert order.index(parts.Part.ETCD) == len(order) - 1
    assert order.index(parts.Part.API_SERVER) == len(order) - 2


def test_a_cluster_that_is_given_needs_no_control_plane():
    planned = parts.plan(own_control_plane=False, own_containerd=True, own_dns=False, metrics_server=False)
    assert not {*parts.CONTROL_PLANE, parts.Part.COREDNS, parts.Part.CLUSTER_DNS} & set(planned)
    assert parts.Part.NODE in planned


def test_no_secret_stands_on_a_command_line_or_in_a_repr():
    for command in all_commands():
        assert "canary-secret" not in " ".join(command.argv)
        assert "canary-secret" not in repr(command)


def test_nothing_listens_outside_loopback_and_the_gateway():
    hosts = {host for command in all_commands() for host, _, _ in command.listens}
    assert hosts == {"127.0.0.1", "10.88.0.1"}


def test_no_two_parts_share_a_port():
    addresses_ = [(host, port) for command in all_commands() for host, port, _ in command.listens]
    assert len(addresses_) == len(set(addresses_))


def test_etcd_asks_every_client_for_a_certificate():
    config = yaml.safe_load(controlplane.etcd_config(control_plane()))
    assert config["client-transport-security"]["client-cert-auth"] is True
    assert config["listen-client-urls"] == "https://127.0.0.1:4001"


def test_the_node_is_told_the_api_server_as_host_and_port():
    command = all_commands()[-1]
    assert command.env["KCI_CLUSTER_SERVER"] == "10.88.0.1:6443"
    assert command.env["VKUBELET_POD_IP"] == "10.88.0.1"
    assert isinstance(command.probe, commands.TcpProbe)


def test_the_taint_is_left_out_only_when_asked():
    def argv(**asked):
        return programs.virtual_kubelet(
            program_plan(**asked), cluster_server="https://a:1", node_kubeconfig=pathlib.Path("/k")
        ).argv

    assert "--disable-taint" in argv(disable_taint=True)
    assert "--disable-taint" not in argv()


def test_kube_proxy_is_on_for_the_nodes_pods_only_when_asked():
    def told(**asked):
        return programs.virtual_kubelet(
            program_plan(**asked), cluster_server="https://a:1", node_kubeconfig=pathlib.Path("/k")
        ).env["KCI_KUBE_PROXY"]

    assert (told(kube_proxy=True), told()) == ("true", "false")


def test_the_file_for_shells_has_all_that_another_node_of_the_stack_is_given():
    text = programs.env_file(
        IDENTITY, kci_endpoint="http://10.88.0.1:8180", cluster_server="https://10.88.0.1:6443"
    )
    assert dict(line.split("=", 1) for line in text.splitlines()) == {
        "KCI_ACCESS_KEY": "AK",
        "KCI_SECRET_KEY": "canary-secret",
        "KCI_REGION": "local-1",
        "KCI_ENDPOINT": "http://10.88.0.1:8180",
        "KCI_CLUSTER_ID": "c",
        "KCI_SUBNET_ID": "s",
        "KCI_SECURITY_GROUP_IDS": "g",
        "KCI_CLUSTER_SERVER": "10.88.0.1:6443",
    }


def test_containerd_keeps_to_the_state_folder_and_to_our_plugin():
    binaries = containerd.Binaries("/usr/bin/containerd", "1.7.24", "crun", "/usr/bin/crun")
    config = tomllib.loads(containerd.config(WHERE, binaries))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    for path in (config["root"], config["state"], config["grpc"]["address"], cri["cni"]["conf_dir"]):
        assert path.startswith("/state/")
    assert cri["restrict_oom_score_adj"] is True
    assert cri["containerd"]["runtimes"]["crun"]["options"]["BinaryName"] == "/usr/bin/crun"
    assert json.loads(containerd.cni_config(WHERE))["socket"] == str(WHERE.cni_socket)


def test_public_names_go_to_the_local_registry_only_where_public_ones_do_not_answer():
    assert set(containerd.registry_hosts(5000, public_is_local=False)) == {"registry.local"}
    local = containerd.registry_hosts(5000, public_is_local=True)
    assert set(local) == {"registry.local", "docker.io"}
    assert tomllib.loads(local["docker.io"])["server"] == "http://127.0.0.1:5000"


def test_of_the_guides_registry_the_local_one_is_asked_first_and_only_if_the_nodes_image_is_wanted():
    hosts = tomllib.loads(
        containerd.registry_hosts(5000, public_is_local=False, node_image=True)["hub.kce.ksyun.com"]
    )
    assert hosts["server"] == "https://hub.kce.ksyun.com"
    assert list(hosts["host"]) == ["http://127.0.0.1:5000"]


@pytest.mark.parametrize(
    ("wanted", "versions", "chosen"),
    [
        (settings.Runtime.AUTO, {"crun": (1, 21), "runc": (1, 1)}, "crun"),
        (settings.Runtime.AUTO, {"crun": (1, 8), "runc": (1, 1)}, "runc"),
        (settings.Runtime.AUTO, {"crun": None, "runc": (1, 1)}, "runc"),
        (settings.Runtime.CRUN, {"crun": (1, 28), "runc": None}, "crun"),
        (settings.Runtime.RUNC, {"crun": (1, 28), "runc": (1, 1)}, "runc"),
    ],
)
def test_crun_is_preferred_where_it_is_new_enough(wanted, versions, chosen):
    assert containerd.choose_runtime(wanted, versions) == chosen


@pytest.mark.parametrize(
    ("wanted", "versions", "said"),
    [
        (settings.Runtime.CRUN, {"crun": (1, 8), "runc": (1, 1)}, "1.21 or newer is needed and found 1.8"),
        (settings.Runtime.AUTO, {"crun": None, "runc": None}, "apt install"),
    ],
)
def test_a_runtime_that_is_missing_is_named_with_the_remedy(wanted, versions, said):
    with pytest.raises(errors.StackError, match=said):
        containerd.choose_runtime(wanted, versions)


def test_ports_are_kept_but_for_those_that_somebody_took():
    chosen = preparation.choose_ports(
        [1, 2, 3], lambda count: list(range(100, 100 + count)), lambda port: port != 2
    )
    assert chosen == [1, 100, 3]
    assert len(preparation.choose_ports([], lambda count: list(range(count)), lambda _: True)) == 11


def test_names_on_the_machine_differ_between_stacks_and_fit_a_link():
    one, other = layout.Layout(pathlib.Path("/a")), layout.Layout(pathlib.Path("/b"))
    assert one.bridge != other.bridge
    assert len(one.bridge) < 16


def test_the_control_plane_is_built_to_know_its_version():
    module = goprograms.read_module()
    flags = " ".join(goprograms.plan_flags(goprograms.CONTROL_PLANE, module.kubernetes_version))
    assert f"gitVersion={module.kubernetes_version}" in flags
    assert "gitMajor=1 " in flags


def test_a_change_of_one_program_builds_only_that_one_anew(tmp_path):
    for program in goprograms.PROGRAMS:
        (tmp_path / program).mkdir()
        (tmp_path / program / "main.go").write_text("package main\n")
    (tmp_path / "go.mod").write_text("x")
    (tmp_path / "go.sum").write_text("x")
    required = {
        "k8s.io/kubernetes": "v1.36.3",
        "github.com/coredns/coredns": "v1.15.0",
        "sigs.k8s.io/metrics-server": "v0.9.0",
    }
    module = goprograms.Module(tmp_path, required, (1, 26))
    before = {program: goprograms.cache_key(program, module) for program in goprograms.PROGRAMS}
    (tmp_path / "cni" / "main.go").write_text("package main // changed\n")
    after = {program: goprograms.cache_key(program, module) for program in goprograms.PROGRAMS}
    assert after["controlplane"] == before["controlplane"]
    assert after["cni"] != before["cni"]


def test_each_of_our_programs_is_told_its_own_file_of_crash_points_and_only_if_asked():
    armed = dataclasses.replace(program_plan(), crash_points="/points")
    for plan, expected in ((armed, {"kci-service", "kcilet", "virtual-kubelet"}), (program_plan(), set())):
        env = [
            programs.service(plan).env,
            programs.kcilet(plan, cluster_server="").env,
            programs.virtual_kubelet(
                plan, cluster_server="https://10.88.0.1:6443", node_kubeconfig=pathlib.Path("/k")
            ).env,
        ]
        told = {one["KCI_CRASH_POINTS"] for one in env if "KCI_CRASH_POINTS" in one}
        assert told == {f"/points/{part}" for part in expected}


def test_our_programs_are_told_where_traces_go_as_the_user_said_it():
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_HEADERS": "key=canary-secret"}
    assert tracing.of({**told, "HOME": "/root"}) == told
    traced = dataclasses.replace(program_plan(), trace_variables=told)
    assert "canary-secret" not in repr(traced)
    for plan, expected in ((traced, told), (program_plan(), {})):
        for command in (
            programs.service(plan),
            programs.kcilet(plan, cluster_server=""),
            programs.virtual_kubelet(
                plan, cluster_server="https://10.88.0.1:6443", node_kubeconfig=pathlib.Path("/k")
            ),
        ):
            assert {key: text for key, text in command.env.items() if key.startswith("OTEL_")} == expected


def test_the_audit_log_is_off_unless_asked_for_and_never_holds_secrets_by_kind():
    assert not any("audit" in flag for flag in controlplane.api_server(control_plane()).argv)
    flags = controlplane.api_server(dataclasses.replace(control_plane(), audit=True)).argv
    assert f"--audit-log-path={WHERE.audit_log}" in flags
    policy = yaml.safe_load(controlplane.audit_policy())
    with_bodies = [rule for rule in policy["rules"] if rule["level"] not in {"None", "Metadata"}]
    named = {name for rule in with_bodies for kind in rule["resources"] for name in kind["resources"]}
    assert {"pods", "pods/status", "leases"} <= named
    assert not named & {"secrets", "configmaps", "serviceaccounts/token"}
    assert policy["rules"][-1] == {"level": "None"}
