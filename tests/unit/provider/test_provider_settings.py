"""The guide's flags and variables mean what the guide says, and everything wrong is named at once."""

import pytest

from kci.contract import packages
from kci.kit import errors
from kci.kube import models
from kci.provider import key_settings, options, settings
from kci.vnode import node, pod_controller

ENVIRONMENT = {
    "VKUBELET_POD_IP": "10.0.0.9",
    "KCI_ACCESS_KEY": "AK",
    "KCI_SECRET_KEY": "very-secret",
    "KCI_REGION": "cn-beijing-6",
    "KCI_CLUSTER_ID": "c-1",
    "KUBERNETES_SERVICE_HOST": "10.254.0.1",
}
GUIDE = [
    "--provider=kingsoftcloud",
    "--nodename=virtual-kubelet01",
    "--cluster-dns=10.254.0.10",
    "--cluster-dns=198.18.224.10,198.18.224.11",
    "--cluster-domain=cluster.local",
    "--disable-taint",
    "--enable-node-lease",
]


@pytest.fixture
def parse(tmp_path):
    file = tmp_path / "file.pem"
    file.write_text("x")
    files = [f"--{name}={file}" for name in ("client-ca-file", "tls-cert-file", "tls-private-key-file")]

    def parsed(*arguments, **environment):
        merged = {**ENVIRONMENT, **environment}
        return settings.parse([*files, *arguments], {k: v for k, v in merged.items() if v is not None})

    return parsed


@pytest.fixture
def problems(parse):
    def found(*arguments, **environment):
        with pytest.raises(errors.SettingsError) as caught:
            parse(*arguments, **environment)
        return "\n".join(caught.value.problems)

    return found


def test_the_guides_own_flags_are_taken(parse):
    found = parse(*GUIDE)
    assert found.node_name == "virtual-kubelet01"
    assert (found.taints, found.node_lease, found.cluster_domain) == ((), True, "cluster.local")
    assert found.endpoint == "https://kci.api.ksyun.com"
    assert (found.kubelet_port, found.kube_proxy) == (10250, False)
    assert "very-secret" not in repr(found)


# ---- the guide's flags -------------------------------------------------------------------------------


@pytest.mark.guide("flag --provider")
def test_the_provider_is_kingsoftcloud_and_no_other(parse, problems):
    assert parse("--provider=kingsoftcloud") == parse()
    assert "--provider is 'azure': this program has only kingsoftcloud" in problems("--provider", "azure")


@pytest.mark.guide("flag --nodename", "env DEFAULT_NODE_NAME")
def test_the_nodes_name_is_the_flags_or_the_variables_or_virtual_kubelet(parse, problems):
    assert parse().node_name == "virtual-kubelet"
    assert parse(DEFAULT_NODE_NAME="two").node_name == "two"
    assert parse("--nodename=one", DEFAULT_NODE_NAME="two").node_name == "one"
    assert "--nodename is 'Node_1': use at most 63 lower-case" in problems("--nodename=Node_1")
    assert "DEFAULT_NODE_NAME is 'Node_1'" in problems(DEFAULT_NODE_NAME="Node_1")


@pytest.mark.guide("flag --cluster-dns")
def test_cluster_dns_may_be_repeated_as_the_guide_does_and_warns_of_it(parse, problems):
    assert parse("--cluster-dns=10.0.0.1, 10.0.0.2").cluster_dns == ("10.0.0.1", "10.0.0.2")
    found = parse(*GUIDE)
    assert found.cluster_dns == ("10.254.0.10", "198.18.224.10", "198.18.224.11")
    assert found.node_dns == ()
    assert ["--virtual-node-dns" in warning for warning in found.warnings] == [True]
    assert "--cluster-dns has 'dns.local', which is no IP address" in problems("--cluster-dns=dns.local")
    assert "at most 3" in problems("--cluster-dns=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4")


@pytest.mark.guide("flag --virtual-node-dns")
def test_virtual_node_dns_is_a_list_of_addresses(parse, problems):
    assert parse("--virtual-node-dns=198.18.0.1,fd00::1").node_dns == ("198.18.0.1", "fd00::1")
    assert parse().node_dns == ()
    assert "--virtual-node-dns has 'x'" in problems("--virtual-node-dns=x")


@pytest.mark.guide("flag --cluster-domain")
def test_the_cluster_domain_is_clusterlocal_unless_given(parse, problems):
    assert parse().cluster_domain == "cluster.local"
    assert parse("--cluster-domain=corp.example.").cluster_domain == "corp.example"
    assert "--cluster-domain is 'a b': write a DNS domain" in problems("--cluster-domain=a b")


@pytest.mark.guide("flag --disable-taint")
@pytest.mark.parametrize(
    ("arguments", "tainted"),
    [
        ([], True),
        (["--disable-taint"], False),
        (["--disable-taint=true"], False),
        (["--disable-taint=T"], False),
        (["--disable-taint=false"], True),
        # As Go's, a boolean flag takes no word after it.
        (["--disable-taint", "--nodename", "x"], False),
    ],
)
def test_without_disable_taint_the_node_has_the_guides_taint(parse, arguments, tainted):
    assert parse(*arguments).taints == ((node.DEFAULT_TAINT,) if tainted else ())


@pytest.mark.guide("flag --enable-node-lease")
def test_the_lease_is_the_heartbeat_unless_it_is_turned_off(parse, problems):
    assert parse().node_lease
    assert parse("--enable-node-lease").node_lease
    assert not parse("--enable-node-lease=false").node_lease
    assert "--enable-node-lease is 'maybe': write true or false" in problems("--enable-node-lease=maybe")


# ---- upstream's flags ----------------------------------------------------------------------------------


@pytest.mark.guide("flag --pod-sync-workers")
def test_so_many_pods_are_worked_on_at_once(parse, problems):
    assert parse().pod_sync_workers == pod_controller.WORKERS
    assert parse("--pod-sync-workers=10").pod_sync_workers == 10
    for value in ("0", "many", "1001"):
        assert f"--pod-sync-workers is '{value}': write a number from 1 to 1000" in problems(
            f"--pod-sync-workers={value}"
        )


@pytest.mark.guide("flag --full-resync-period")
def test_everything_is_looked_at_again_each_minute_or_as_told(parse, problems):
    assert parse().full_resync_s == pod_controller.SWEEP_INTERVAL_S
    assert parse("--full-resync-period=1m30s").full_resync_s == 90
    assert "--full-resync-period: '60' is no span of time such as 30s" in problems("--full-resync-period=60")
    assert "--full-resync-period is 10ms: at least 1s" in problems("--full-resync-period=10ms")


@pytest.mark.guide("flag --metrics-addr")
def test_metrics_are_served_where_it_is_asked_and_else_nowhere(parse, problems):
    assert parse().metrics_address == ""
    assert parse("--metrics-addr=:10255").metrics_address == ":10255"
    assert "--metrics-addr is 'x': write [host]:port" in problems("--metrics-addr=x")


@pytest.mark.guide("flag --startup-timeout")
def test_a_start_has_no_time_limit_unless_one_is_given(parse, problems):
    assert parse().startup_timeout_s == 0
    assert parse("--startup-timeout=2m").startup_timeout_s == 120
    assert "--startup-timeout: '-1s' is no span of time" in problems("--startup-timeout=-1s")


@pytest.mark.guide("flag --os")
def test_the_operating_system_is_linux(parse, problems):
    assert parse("--os=Linux") == parse("--os=linux") == parse()
    assert "--os is 'Windows': instances run linux only" in problems("--os=Windows")


@pytest.mark.guide("flag --stream-idle-timeout", "flag --stream-creation-timeout")
def test_stream_timeouts_are_the_flags_or_the_variables_or_the_kubelets(parse, problems):
    assert (parse().stream_creation_s, parse().stream_idle_s) == (30, 4 * 3600)
    found = parse("--stream-idle-timeout=1h", "--stream-creation-timeout=5s", VKUBELET_STREAM_IDLE_S="7")
    assert (found.stream_creation_s, found.stream_idle_s) == (5, 3600)
    assert parse(VKUBELET_STREAM_IDLE_S="7").stream_idle_s == 7
    assert "--stream-idle-timeout is 0: at least 1s" in problems("--stream-idle-timeout=0")


@pytest.mark.guide("flag --klog.*")
def test_flags_of_upstreams_logger_are_passed_over(parse):
    found = parse("--klog.v", "2", "--klog.logtostderr", "--nodename", "x", "--klog.vmodule=a=1")
    assert found.node_name == "x"
    assert [warning.split()[0] for warning in found.warnings] == [
        "--klog.v",
        "--klog.logtostderr",
        "--klog.vmodule",
    ]


def test_an_unknown_flag_is_named_with_the_nearest(problems):
    assert "--cluster-dnss=x is unknown: is --cluster-dns meant?" in problems("--cluster-dnss=x")


def test_an_unknown_flag_without_a_near_name_is_a_sentence_too_beside_all_else_that_is_wrong(problems):
    found = problems("--v=3", "--zzz", "foo", "bar", "--cluster-dns", "--nodename=Node_1").splitlines()
    assert [problem.partition(": ")[0] for problem in found] == [
        "--v=3 is unknown",
        "--zzz is unknown",
        "'bar' belongs to no flag",
        "--cluster-dns has no value",
        "--nodename is 'Node_1'",
    ]
    assert "--v=3 is unknown: --help lists what there is" in found
    assert "--cluster-dns has no value: write --cluster-dns=TEXT" in found


@pytest.mark.guide("flag --enable-node-lease", "flag --disable-taint")
def test_a_boolean_flags_value_that_stands_by_itself_is_told_how_to_be_written(problems):
    assert problems("--enable-node-lease", "true").endswith("write --enable-node-lease=true")
    assert problems("--disable-taint", "false", "--nodename=x").endswith("write --disable-taint=false")
    assert "as --disable-taint=true or --disable-taint=false" in problems("--disable-taint", "maybe")


@pytest.mark.guide("flag --kubeconfig", "env KUBECONFIG")
def test_the_kubeconfig_is_the_flags_or_the_variables_or_the_pods_own(parse, problems, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()
    assert parse().kubeconfig is None
    assert parse(KUBECONFIG=str(two)).kubeconfig == two
    assert parse(f"--kubeconfig={one}", KUBECONFIG=str(two)).kubeconfig == one
    assert "--kubeconfig names /no/file, which is no file" in problems("--kubeconfig=/no/file")
    assert "there is no cluster to join: give --kubeconfig" in problems(KUBERNETES_SERVICE_HOST=None)


# ---- the environment ------------------------------------------------------------------------------------


@pytest.mark.guide("env VKUBELET_POD_IP")
def test_the_nodes_address_is_needed(parse, problems):
    assert parse().node_address == "10.0.0.9"
    assert "VKUBELET_POD_IP is missing: set the node's own IP address" in problems(VKUBELET_POD_IP=None)
    assert "VKUBELET_POD_IP is 'node', which is no IP address" in problems(VKUBELET_POD_IP="node")


@pytest.mark.guide("env KUBELET_PORT")
def test_the_kubelets_port_is_10250_unless_given(parse, problems):
    assert (parse().kubelet_port, parse(KUBELET_PORT="10350").kubelet_port) == (10250, 10350)
    assert "KUBELET_PORT is '0', which is no TCP port" in problems(KUBELET_PORT="0")


@pytest.mark.guide("env KCI_CLUSTER_ID")
def test_the_clusters_id_is_needed_and_fits_a_label(parse, problems):
    assert parse().cluster_id == "c-1"
    assert "KCI_CLUSTER_ID is missing: set the cluster's id" in problems(KCI_CLUSTER_ID="")
    assert "KCI_CLUSTER_ID is '-x': use at most 63 letters" in problems(KCI_CLUSTER_ID="-x")


@pytest.mark.guide("env KCI_REGION")
def test_the_region_is_needed(parse, problems):
    assert parse().region == "cn-beijing-6"
    assert "KCI_REGION is missing: set the region's code" in problems(KCI_REGION=None)


@pytest.mark.guide("env KCI_SUBNET_ID")
def test_the_subnet_of_the_node_may_be_left_to_the_pods(parse):
    assert (parse().subnet_id, parse(KCI_SUBNET_ID=" s-1 ").subnet_id) == ("", "s-1")


@pytest.mark.guide("env KCI_SECURITY_GROUP_IDS", "limit securityGroups")
def test_at_most_three_security_groups(parse, problems):
    assert parse().security_group_ids == ()
    assert parse(KCI_SECURITY_GROUP_IDS="a, b,c").security_group_ids == ("a", "b", "c")
    assert "KCI_SECURITY_GROUP_IDS has 4 groups: at most 3" in problems(KCI_SECURITY_GROUP_IDS="a,b,c,d")


@pytest.mark.guide("env KCI_KUBE_PROXY")
def test_kube_proxy_is_off_unless_it_is_turned_on(parse, problems):
    assert [parse(KCI_KUBE_PROXY=value).kube_proxy for value in ("", "false", "true")] == [False, False, True]
    assert "KCI_KUBE_PROXY is 'ja': write true or false" in problems(KCI_KUBE_PROXY="ja")


@pytest.mark.guide("env KCI_CLUSTER_SERVER")
@pytest.mark.parametrize("server", ["10.0.0.1:6443", "https://api.example:6443", "[fd00::1]:6443", ""])
def test_the_api_server_for_instances_is_an_ip_and_a_port(parse, problems, server):
    assert parse(KCI_CLUSTER_SERVER=server).cluster_server == server
    assert "KCI_CLUSTER_SERVER is 'a b': write it as ip:port" in problems(KCI_CLUSTER_SERVER="a b")


@pytest.mark.guide("env KCI_REQUEST_INTERNAL", "env KCI_ENDPOINT")
@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, "https://kci.api.ksyun.com"),
        ({"KCI_REQUEST_INTERNAL": ""}, "http://internal.api.ksyun.com"),
        ({"KCI_REQUEST_INTERNAL": "false"}, "http://internal.api.ksyun.com"),
        ({"KCI_ENDPOINT": "http://127.0.0.1:8080/"}, "http://127.0.0.1:8080"),
        ({"KCI_ENDPOINT": "http://127.0.0.1:8080", "KCI_REQUEST_INTERNAL": ""}, "http://127.0.0.1:8080"),
    ],
)
def test_the_internal_endpoint_is_chosen_by_presence_and_any_by_name(parse, problems, environment, endpoint):
    assert parse(**environment).endpoint == endpoint
    assert "KCI_ENDPOINT is 'ftp://x': write it as https://host" in problems(KCI_ENDPOINT="ftp://x")


@pytest.mark.guide(
    "env APISERVER_CERT_LOCATION", "env APISERVER_KEY_LOCATION", "env APISERVER_CA_CERT_LOCATION"
)
def test_the_kubelet_apis_files_are_given_by_flag_or_variable_or_come_from_the_cluster(tmp_path):
    files = {
        name: tmp_path / name
        for name in ("APISERVER_CERT_LOCATION", "APISERVER_KEY_LOCATION", "APISERVER_CA_CERT_LOCATION")
    }
    for file in files.values():
        file.touch()
    found = settings.parse([], {**ENVIRONMENT, **{name: str(file) for name, file in files.items()}})
    assert [found.tls_cert_file, found.tls_private_key_file, found.client_ca_file] == list(files.values())
    none = settings.parse([], ENVIRONMENT)
    assert (none.tls_cert_file, none.tls_private_key_file, none.client_ca_file) == (None, None, None)
    with pytest.raises(errors.SettingsError, match="--tls-private-key-file is missing"):
        settings.parse([f"--tls-cert-file={files['APISERVER_CERT_LOCATION']}"], ENVIRONMENT)
    with pytest.raises(errors.SettingsError, match="--client-ca-file names /nowhere"):
        settings.parse(["--client-ca-file=/nowhere"], ENVIRONMENT)


@pytest.mark.guide(
    "env VKUBELET_TAINT_KEY", "env VKUBELET_TAINT_VALUE", "env VKUBELET_TAINT_EFFECT", "form taint"
)
def test_each_part_of_the_taint_can_be_told(parse, problems):
    assert parse().taints == (
        models.Taint(key="virtual-kubelet.io/provider", value="kingsoftcloud", effect="NoSchedule"),
    )
    whole = {
        "VKUBELET_TAINT_KEY": "rbkci-virtual-kubelet.io/provider",
        "VKUBELET_TAINT_VALUE": "",
        "VKUBELET_TAINT_EFFECT": "NoExecute",
    }
    assert parse(**whole).taints == (models.Taint(key=whole["VKUBELET_TAINT_KEY"], effect="NoExecute"),)
    assert parse("--disable-taint", **whole).taints == ()
    text = problems(VKUBELET_TAINT_KEY="a/b/c", VKUBELET_TAINT_VALUE="!", VKUBELET_TAINT_EFFECT="Never")
    assert "VKUBELET_TAINT_KEY is 'a/b/c': write a label's key" in text
    assert "VKUBELET_TAINT_VALUE is '!': use at most 63" in text
    assert "VKUBELET_TAINT_EFFECT is 'Never': use one of NoSchedule, PreferNoSchedule, NoExecute" in text


@pytest.mark.guide("limit sizes")
def test_sizes_are_the_services_unless_a_file_says_which(parse, tmp_path):
    assert (parse().table, parse().strict_sizes) == (None, False)
    file = tmp_path / "sizes.json"
    file.write_text('{"Packages": [{"Cpu": 2, "Mem": [4]}]}')
    assert not parse().sum_containers_only
    assert parse("--sum-containers-only").sum_containers_only
    found = parse(f"--packages={file}", "--strict-sizes")
    assert list(found.table.sizes) == [packages.Size(2, 4)]
    assert found.strict_sizes
    file.write_text('{"Packages": []}')
    with pytest.raises(errors.SettingsError, match=r"--packages: .*sizes\.json: there is no package in it"):
        parse(f"--packages={file}")
    with pytest.raises(errors.SettingsError, match=r"--packages: .*no-file"):
        parse("--packages=no-file")


def test_everything_wrong_is_named_together():
    with pytest.raises(errors.SettingsError) as caught:
        settings.parse(
            [
                "--provider=other",
                "--disable-taint=maybe",
                "--nonsense",
                "--cluster-dns=here",
                "--tls-cert-file=none",
            ],
            {
                "VKUBELET_POD_IP": "node",
                "KCI_CLUSTER_ID": "-x",
                "KCI_SECURITY_GROUP_IDS": "a,b,c,d",
                "KUBELET_PORT": "0",
                "VKUBELET_STREAM_IDLE_S": "4h",
                "KCI_KUBE_PROXY": "ja",
                "KCI_CLUSTER_SERVER": "a b",
            },
        )
    text = str(caught.value)
    for part in (
        "--provider",
        "--disable-taint",
        "--nonsense",
        "--cluster-dns",
        "VKUBELET_POD_IP",
        "KCI_CLUSTER_ID",
        "KCI_SECURITY_GROUP_IDS",
        "KUBELET_PORT",
        "VKUBELET_STREAM_IDLE_S",
        "KCI_KUBE_PROXY",
        "KCI_CLUSTER_SERVER",
        "KCI_ACCESS_KEY",
        "KCI_REGION",
        "--tls-private-key-file",
    ):
        assert part in text, part


def test_help_says_for_each_option_what_it_means_its_default_and_why(capsys):
    with pytest.raises(SystemExit):
        settings.parse(["--help"], {})
    shown = " ".join(capsys.readouterr().out.split())
    assert "--disable-taint[=true|false]" in shown
    for option in (*options.FLAGS, *options.VARIABLES, *key_settings.VARIABLES, *options.KEYS):
        assert option.means, option.name
        assert option.why, option.name
        assert option.name in shown, option.name
        # argparse and textwrap break lines at hyphens.
        assert option.text.replace("-", "").replace(" ", "") in shown.replace("-", "").replace(" ", "")


def test_a_default_that_help_shows_is_the_one_that_holds():
    for flag in options.FLAGS:
        value = settings.NOT_GIVEN.get(flag.name)
        assert value is None or flag.default == value, flag.name
