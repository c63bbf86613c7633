"""The guide's flags and variables mean what the guide says, and everything wrong is named at once."""

import pytest

from kci.contract import packages
from kci.kit import errors
from kci.provider import settings

ENVIRONMENT = {
    "VKUBELET_POD_IP": "10.0.0.9",
    "KCI_ACCESS_KEY": "AK",
    "KCI_SECRET_KEY": "very-secret",
    "KCI_REGION": "cn-beijing-6",
    "KCI_CLUSTER_ID": "c-1",
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


def test_the_guides_own_flags_are_taken(parse):
    found = parse(*GUIDE)
    assert found.node_name == "virtual-kubelet01"
    # The guide repeats --cluster-dns.
    assert found.cluster_dns == ("10.254.0.10", "198.18.224.10", "198.18.224.11")
    assert (found.taint, found.node_lease, found.cluster_domain) == (False, True, "cluster.local")
    assert found.endpoint == "https://kci.api.ksyun.com"
    assert (found.kubelet_port, found.kube_proxy) == (10250, False)
    assert "very-secret" not in repr(found)


@pytest.mark.parametrize(
    ("arguments", "taint"),
    [
        ([], True),
        (["--disable-taint"], False),
        (["--disable-taint=true"], False),
        (["--disable-taint=T"], False),
        (["--disable-taint=false"], True),
        (["--disable-taint", "--nodename", "x"], False),
    ],
)
def test_boolean_flags_are_as_gos(parse, arguments, taint):
    assert parse(*arguments).taint is taint


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({"KCI_REQUEST_INTERNAL": ""}, "http://internal.api.ksyun.com"),
        ({"KCI_ENDPOINT": "http://127.0.0.1:8080/"}, "http://127.0.0.1:8080"),
        ({"KCI_ENDPOINT": "http://127.0.0.1:8080", "KCI_REQUEST_INTERNAL": ""}, "http://127.0.0.1:8080"),
    ],
)
def test_the_internal_endpoint_is_chosen_by_presence_and_any_by_name(parse, environment, endpoint):
    assert parse(**environment).endpoint == endpoint


@pytest.mark.guide("limit sizes")
def test_sizes_are_the_services_unless_a_file_says_which(parse, tmp_path):
    assert (parse().table, parse().strict_sizes) == (None, False)
    file = tmp_path / "sizes.json"
    file.write_text('{"Packages": [{"Cpu": 2, "Mem": [4]}]}')
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
            ["--provider=other", "--disable-taint=maybe", "--nonsense", "--cluster-dns=here"],
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
        "--client-ca-file",
        "--tls-cert-file",
        "--tls-private-key-file",
    ):
        assert part in text, part


def test_help_says_for_each_flag_what_it_means_and_its_default(capsys):
    with pytest.raises(SystemExit):
        settings.parse(["--help"], {})
    text = capsys.readouterr().out
    assert text.count("default") >= 12
    assert "KCI_CLUSTER_SERVER" in text
