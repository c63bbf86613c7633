"""The guide's flags and variables, and the configuration file, by what they do: at a real API server, where
NodeRestriction holds, and at a real KCI service.
"""

import asyncio
import dataclasses
import json

import aiohttp
import msgspec
import pytest
import service_world
from vnode_fixture import WITHIN_S, free_port, is_ready

from kci.cli import credentials
from kci.contract import groups
from kci.kit import errors as kit_errors
from kci.kit import tasks
from kci.kube import config as configs
from kci.kube import errors, models, resources
from kci.provider import annotations, main
from kci.vnode import node as node_module

pytestmark = pytest.mark.integration

LEASES = "kube-node-lease"


async def wanted(line, namespace, **spec):
    """What becomes of a pod at the machine: the one group that is wanted there."""
    await line.bind(namespace, **spec)
    await line.groups(1)
    await line.until_running()
    (found,) = line.service.kcilet.wanted.values()
    return found


def our_taints(node):
    """Without those that the control plane puts on nodes."""
    return [taint for taint in node.spec.taints if not taint.key.startswith("node.kubernetes.io/")]


def without(flags, name):
    return [flag for flag in flags if not flag.startswith(f"--{name}=")]


# ---- the program, as the guide deploys it ---------------------------------------------------------------


@pytest.mark.guide(
    "flag --provider",
    "flag --nodename",
    "flag --enable-node-lease",
    "flag --kubeconfig",
    "env VKUBELET_POD_IP",
    "env KCI_ACCESS_KEY",
    "env KCI_SECRET_KEY",
    "env KCI_REGION",
    "env KCI_ENDPOINT",
)
async def test_the_program_runs_with_the_guides_arguments_and_variables(line, namespace, tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(configs.render(line.config))
    guides = ["--provider=kingsoftcloud", *line.flags, "--disable-taint", "--enable-node-lease"]
    with line.process(*guides, f"--kubeconfig={kubeconfig}", **line.environment):
        node = await line.until(line.node, is_ready)
        addresses = {address.type: address.address for address in node.status.addresses}
        assert addresses == {"InternalIP": "127.0.0.1", "Hostname": line.name}
        assert our_taints(node) == []
        await line.until(
            lambda: line.admin.get(resources.LEASES, line.name, namespace=LEASES),
            lambda found: found is not None and found.spec.holder_identity,
        )
        await wanted(line, namespace)


@pytest.mark.guide(
    "env DEFAULT_NODE_NAME",
    "env KUBECONFIG",
    "env KUBELET_PORT",
    "env APISERVER_CERT_LOCATION",
    "env APISERVER_KEY_LOCATION",
    "env APISERVER_CA_CERT_LOCATION",
    "env VKUBELET_TAINT_KEY",
    "env VKUBELET_TAINT_VALUE",
    "env VKUBELET_TAINT_EFFECT",
)
async def test_the_program_runs_with_upstreams_variables_alone(line, namespace, tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(configs.render(line.config))
    upstreams = {
        "DEFAULT_NODE_NAME": line.name,
        "KUBECONFIG": str(kubeconfig),
        "APISERVER_CERT_LOCATION": str(line.settings.tls_cert_file),
        "APISERVER_KEY_LOCATION": str(line.settings.tls_private_key_file),
        "APISERVER_CA_CERT_LOCATION": str(line.settings.client_ca_file),
        "VKUBELET_TAINT_KEY": "example.com/only",
        "VKUBELET_TAINT_VALUE": "mine",
        "VKUBELET_TAINT_EFFECT": "NoExecute",
    }
    with line.process(**line.environment, **upstreams):
        node = await line.until(line.node, is_ready)
        assert our_taints(node) == [models.Taint(key="example.com/only", value="mine", effect="NoExecute")]
        raw = json.loads(await line.admin.request("GET", f"/api/v1/nodes/{line.name}"))
        port = raw["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        assert port == int(line.environment["KUBELET_PORT"])
        # By certificate and CA: the API server's identity is let in.
        async with (
            asyncio.timeout(WITHIN_S),
            line.kubelet(line.api_server.admin) as kubelet,
            kubelet.get("/pods") as answer,
        ):
            assert answer.status == 200


@pytest.mark.guide("env TEMP_AKSK_CM")
async def test_the_program_signs_with_the_config_maps_keys_as_they_come_and_change(
    line, namespace, tmp_path, applied
):
    name = f"user-temp-aksk-{line.name}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(configs.render(line.config))
    keys = {"KCI_ACCESS_KEY", "KCI_SECRET_KEY"}
    environment = {key: value for key, value in line.environment.items() if key not in keys}
    environment["TEMP_AKSK_CM"] = name

    async def put(manifest):
        """New keys, as `kci credentials issue` prints them; their id."""
        await applied(manifest)
        return manifest["items"][0]["data"]["ak"]

    async def issue():
        issued = await line.service.alice.issue_credentials(60)
        return credentials.to_manifest(issued, name=name, node_name=line.name)

    first, second = await issue(), await issue()
    # The right to read it alone: there is no ConfigMap yet.
    await applied({"items": first["items"][1:]})
    argv = (*line.flags, f"--kubeconfig={kubeconfig}")
    with line.process(*argv, **environment) as program:
        await line.until(line.node, is_ready)
        await line.bind(namespace)
        await line.until(
            lambda: line.admin.request(
                "GET",
                f"/api/v1/events?fieldSelector=involvedObject.name={line.name},reason=CredentialsNotUsable",
            ),
            lambda found: found is not None and f"ConfigMap kube-system/{name}: there is none" in str(found),
        )
        assert await line.service.alice.list_container_groups() == []
        used = [await put(first)]
        await line.until_running()
        used.append(await put(second))
        await line.bind(namespace, name="another")
        await line.until(
            line.service.alice.list_container_groups,
            lambda found: [group.status for group in found] == ["Running", "Running"],
        )
        program.terminate()
        _, told = await tasks.in_thread(program.communicate, None, WITHIN_S)
    taken = [text for text in told.splitlines() if "credentials taken" in text]
    assert [key in text for key, text in zip(used, taken, strict=True)] == [True, True]
    for manifest in (first, second):
        for field in ("sk", "securityToken"):
            assert manifest["items"][0]["data"][field] not in told


@pytest.mark.guide("flag --provider", "flag --os", "env KCI_CLUSTER_ID", "env KCI_REGION")
async def test_a_program_with_wrong_settings_names_all_of_them_and_ends_with_1(line):
    variables = {**line.environment, "KCI_CLUSTER_ID": "", "KCI_REGION": ""}
    with line.process(*line.flags, "--provider=azure", "--os=Windows", **variables) as program:
        _, told = await tasks.in_thread(program.communicate, None, WITHIN_S)
        assert program.returncode == 1
    for what in (
        "--provider is 'azure'",
        "--os is 'Windows'",
        "KCI_CLUSTER_ID is missing",
        "KCI_REGION is missing",
    ):
        assert what in told
    assert "Traceback" not in told


# ---- what becomes of pods --------------------------------------------------------------------------------


@pytest.mark.guide(
    "flag --cluster-dns",
    "flag --virtual-node-dns",
    "flag --cluster-domain",
    "env KCI_CLUSTER_ID",
    "env KCI_SUBNET_ID",
    "env KCI_SECURITY_GROUP_IDS",
    "env KCI_KUBE_PROXY",
    "env KCI_CLUSTER_SERVER",
)
async def test_what_the_node_is_told_reaches_the_instance(line, namespace):
    told = line.told(
        # The guide's own manifest has it twice; the fixture has it once already.
        "--cluster-dns=198.18.0.11",
        "--virtual-node-dns=198.18.0.53",
        "--cluster-domain=corp.example",
        KCI_CLUSTER_ID="my-cluster",
        KCI_KUBE_PROXY="true",
    )
    async with line.running(told):
        found = await wanted(line, namespace)
        (group,) = await line.groups(1)
    assert found.cluster_dns == ("198.18.0.10", "198.18.0.11")
    assert (found.machine_dns, found.cluster_domain) == (("198.18.0.53",), "corp.example")
    assert (found.kube_proxy, found.cluster.cluster_id) == (True, "my-cluster")
    assert configs.parse(found.cluster.kubeconfig).server == f"https://127.0.0.1:{line.api_server.port}"
    assert group.label("cluster-id") == "my-cluster"
    (interface,) = group.network_interface_attributes
    assert interface.subnet_id == service_world.SUBNET_ID
    assert [one.security_group_id for one in interface.security_groups] == [service_world.SECURITY_GROUP_ID]


@pytest.mark.guide(
    "env KCI_SUBNET_ID",
    "env KCI_SECURITY_GROUP_IDS",
    "annotation kci-subnet-id",
    "annotation kci-security-group-id",
)
async def test_without_a_subnet_and_a_security_group_a_pod_must_name_them(line, namespace):
    async with line.running(line.told(KCI_SUBNET_ID=None, KCI_SECURITY_GROUP_IDS=None)):
        await line.bind(namespace)
        pod = await line.until(
            lambda: line.admin.get(resources.PODS, "web", namespace=namespace),
            lambda found: found.status.reason,
        )
        assert (pod.status.phase, pod.status.reason) == ("Pending", "MissingSubnet")
        for name in (
            "KCI_SUBNET_ID",
            "KCI_SECURITY_GROUP_IDS",
            annotations.SUBNET,
            annotations.SECURITY_GROUPS,
        ):
            assert name in pod.status.message
        assert await line.service.alice.list_container_groups() == []
        # The refusal ends with its cause, at once.
        named = {
            annotations.SUBNET: service_world.SUBNET_ID,
            annotations.SECURITY_GROUPS: service_world.SECURITY_GROUP_ID,
        }
        await line.admin.patch(
            resources.PODS, "web", {"metadata": {"annotations": named}}, namespace=namespace
        )
        await line.until_running()
        await line.until(
            lambda: line.admin.get(resources.PODS, "web", namespace=namespace),
            lambda found: not found.status.reason,
        )


# ---- the node ---------------------------------------------------------------------------------------------


@pytest.mark.guide("flag --enable-node-lease")
async def test_without_a_lease_the_nodes_status_is_the_heartbeat(line):
    def heartbeat(node):
        return next(one.last_heartbeat_time for one in node.status.conditions if one.type == "Ready")

    async with line.running(line.told("--enable-node-lease=false")):
        first = heartbeat(await line.until(line.node, is_ready))
        await line.until(line.node, lambda found: heartbeat(found) != first)
        with pytest.raises(errors.NotFoundError):
            await line.admin.get(resources.LEASES, line.name, namespace=LEASES)


@pytest.mark.guide("flag --full-resync-period", "flag --pod-sync-workers")
async def test_what_no_change_told_of_is_found_by_the_next_resync(line, namespace):
    async with line.running(line.told("--full-resync-period=1s", "--pod-sync-workers=1")):
        await wanted(line, namespace)
        orphan = service_world.create_request(pod="nobodys")
        labels = [label for label in orphan.label if label.key != "node-name"]
        of_node = groups.Label(key="node-name", value=line.name)
        await line.service.alice.create_container_group(
            msgspec.structs.replace(orphan, label=(*labels, of_node))
        )
        await line.groups(2)
        (kept,) = await line.groups(1)
        assert kept.label("pod-name") == "web"


@pytest.mark.guide("flag --metrics-addr", "flag --klog.*")
async def test_upstreams_address_of_metrics_keeps_no_node_from_running(line):
    async with line.running(line.told("--metrics-addr=:10255", "--klog.v=2")):
        await line.until(line.node, is_ready)


@pytest.mark.guide("flag --metrics-addr")
async def test_the_nodes_own_metrics_are_served_where_it_is_told_to(line, namespace):
    port = free_port()
    async with (
        line.running(line.told(f"--metrics-addr=127.0.0.1:{port}")),
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session,
    ):
        await line.until(line.node, is_ready)
        await line.bind(namespace)
        await line.until_running()

        async def scrape():
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                return await answer.text()

        text = await line.until(scrape, lambda text: 'phase="acknowledged"' in text)
        for metric in (
            'kci_virtual_kubelet_pod_start_seconds_count{phase="created"} 1.0',
            'kci_virtual_kubelet_kci_call_seconds_count{action="CreateContainerGroup",code="OK"} 1.0',
            'kci_virtual_kubelet_kube_call_seconds_count{code="OK",method="GET"} ',
            'kci_virtual_kubelet_queue_work_seconds_count{code="OK",queue="pods"} ',
        ):
            assert metric in text


@pytest.mark.guide("flag --os")
async def test_the_node_says_linux(line):
    async with line.running(line.told("--os=Linux")):
        node = await line.until(line.node, is_ready)
        assert node.metadata.labels["kubernetes.io/os"] == node.status.node_info["operatingSystem"] == "linux"


@pytest.mark.guide("flag --provider-config", "config taints", "config capacity", "config customLabels")
async def test_the_files_settings_show_on_the_node_and_other_taints_later_are_an_event(line, tmp_path):
    taint = models.Taint(key="example.com/only", value="mine", effect="NoSchedule")
    file = tmp_path / "config.json"
    keys = {
        "taints": [{"key": taint.key, "value": taint.value, "effect": taint.effect}],
        "customLabels": {"team": "a", "topology.kubernetes.io/zone": "z"},
        "capacity": {"pods": 7},
    }
    file.write_text(json.dumps(keys))
    first = line.told(f"--provider-config={file}")
    async with line.running(first):
        node = await line.until(line.node, is_ready)
        assert taint in node.spec.taints
        assert (node.metadata.labels["team"], node.metadata.labels["topology.kubernetes.io/zone"]) == (
            "a",
            "z",
        )
        raw = json.loads(await line.admin.request("GET", f"/api/v1/nodes/{line.name}"))
        assert raw["status"]["capacity"]["pods"] == raw["status"]["allocatable"]["pods"] == "7"
    file.write_text('customLabels: {team: "b"}')
    async with line.running(line.told(f"--provider-config={file}")):
        changed = await line.until(line.node, lambda found: found.metadata.labels["team"] == "b")
        # NodeRestriction lets no node change its own.
        assert taint in changed.spec.taints
        assert node_module.DEFAULT_TAINT not in changed.spec.taints
        told = await line.until(
            lambda: line.admin.request(
                "GET",
                f"/api/v1/events?fieldSelector=involvedObject.name={line.name},reason=TaintsDiffer",
            ),
            lambda found: found is not None and json.loads(found)["items"],
        )
        assert f"kubectl taint node {line.name} --overwrite virtual-kubelet.io/provider" in told.decode()


@pytest.mark.guide("flag --startup-timeout")
async def test_a_node_that_cannot_register_in_time_ends_the_program(line):
    limited = line.told("--startup-timeout=1s")
    nobody = dataclasses.replace(line.config, server=f"https://127.0.0.1:{free_port()}")
    with pytest.raises(kit_errors.UserError, match="it is not registered within --startup-timeout"):
        async with asyncio.timeout(WITHIN_S):
            await main.run(limited, nobody, asyncio.Event())
    # A copy that waits for the one that acts has started.
    first = dataclasses.replace(line.settings, identity="first")
    second = dataclasses.replace(limited, identity="second", kubelet_port=free_port())
    async with line.running(first):
        await line.until(line.node, is_ready)
        async with line.running(second):
            await asyncio.sleep(2 * limited.startup_timeout_s)


@pytest.mark.guide("config kciletKubeconfigPath", "config instanceSettings")
async def test_instances_get_the_files_kubeconfig_and_settings(line, namespace, tmp_path):
    others = configs.render(line.api_server.node(f"{line.name}-instances"))
    file = tmp_path / "kubeconfig"
    file.write_text(others)
    config = tmp_path / "config.json"
    of_pods = {annotations.CPU: "4", annotations.MEMORY: "8"}
    config.write_text(json.dumps({"kciletKubeconfigPath": str(file), "instanceSettings": of_pods}))
    async with line.running(line.told(f"--provider-config={config}")):
        found = await wanted(line, namespace)
        assert (found.cpu_milli, found.memory_mib) == (4000, 8192)
        given = configs.parse(found.cluster.kubeconfig)
        assert given.client_certificate_pem == configs.parse(others).client_certificate_pem
        assert given.server == f"https://127.0.0.1:{line.api_server.port}"
