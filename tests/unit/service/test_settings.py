"""The service's flags and files: everything wrong is named at once, and nothing half-started is left."""

import base64
import socket
import subprocess
import sys

import pytest

from kci.contract import packages
from kci.kit import errors
from kci.service import settings

UUID = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def files(tmp_path):
    for name, content in (
        ("operator.env", b"# the operator\nexport KCI_ACCESS_KEY=AK\nKCI_SECRET_KEY='s=k'\nKCI_REGION=r\n"),
        ("key", bytes(range(32))),
    ):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def arguments(files, **changes):
    given = {
        "listen": "127.0.0.1:0",
        "database": files / "kci.db",
        "kcilet-socket": files / "kcilet.sock",
        "region": "cn-test-1",
        "subnet-id": UUID,
        "subnet-cidr": "10.9.0.0/24",
        "gateway": "10.9.0.1",
        "security-group-id": UUID,
        "operator-credentials": files / "operator.env",
        "encryption-key-file": files / "key",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def test_flags_and_files_become_settings(files):
    read = settings.read(arguments(files))
    assert (read.operator.access_key, read.operator.secret_key.reveal()) == ("AK", "s=k")
    assert (read.place.zone, read.signature_skew_s, read.host, read.port) == (
        "cn-test-1a",
        300,
        "127.0.0.1",
        0,
    )
    assert "s=k" not in repr(read)
    assert "\\x01\\x02" not in repr(read)


@pytest.mark.guide("limit sizes")
def test_a_file_replaces_the_sizes_that_there_are(files):
    assert settings.read(arguments(files)).place.table == packages.STANDARD
    (files / "sizes.json").write_text('{"Packages": [{"Cpu": 2, "Mem": [4]}]}')
    read = settings.read(arguments(files, packages=files / "sizes.json"))
    assert list(read.place.table.sizes) == [packages.Size(2, 4)]
    (files / "sizes.json").write_text('{"Packages": [{"Cpu": 2, "Mem": []}]}')
    with pytest.raises(errors.SettingsError, match=r"sizes\.json: the package with Cpu 2 needs"):
        settings.read(arguments(files, packages=files / "sizes.json"))


@pytest.mark.parametrize(
    "encode", [base64.b64encode, base64.urlsafe_b64encode, lambda key: key.hex().encode()]
)
def test_a_key_may_be_text(files, encode):
    key = bytes(range(224, 256))
    (files / "key").write_bytes(encode(key) + b"\n")
    assert settings.read(arguments(files)).encryption_key == key


def test_everything_wrong_is_named_at_once(files):
    (files / "key").write_bytes(b"short")
    (files / "operator.env").chmod(0o644)
    with pytest.raises(errors.SettingsError) as caught:
        settings.read(
            arguments(files, listen="here", subnet_cidr="10.9.0.1/24", security_group_id="web", region="r")
        )
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "--listen",
        "--subnet-cidr",
        "--security-group-id",
        "--operator-credentials",
        "--encryption-key-file",
    ]


@pytest.mark.parametrize("gateway", ["10.8.0.1", "10.9.0.0", "10.9.0.255", "x"])
def test_a_gateway_is_a_hosts_address_of_the_subnet(files, gateway):
    with pytest.raises(errors.SettingsError, match="--gateway"):
        settings.read(arguments(files, gateway=gateway))


def test_what_is_configured_of_the_network_goes_to_the_operator(files):
    other = "33333333-3333-4333-8333-333333333333"
    read = settings.read([*arguments(files, mtu=1400), "--security-group-id", other, "--reserved-cidr",
                          "10.96.0.0/12", "--reserved-cidr", "10.1.0.0/16"])  # fmt: skip
    assert read.network.tenant_id == read.operator.tenant_id
    assert read.network.security_group_ids == (UUID, other)
    assert [str(one) for one in read.place.reserved] == ["10.96.0.0/12", "10.1.0.0/16"]
    assert read.place.mtu == 1400
    # The VPC goes with the subnet, so it is the same after every start.
    assert read.network.vpc_id == settings.read(arguments(files)).network.vpc_id


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reserved_cidr": "10.96.0.1/12"}, "--reserved-cidr: .* write it as"),
        ({"mtu": 100}, "--mtu: .* 1280"),
    ],
)
def test_a_network_that_cannot_be_used_is_told_with_what_to_write(files, changes, match):
    with pytest.raises(errors.SettingsError, match=match):
        settings.read(arguments(files, **changes))


@pytest.mark.parametrize("skew_s", ["0", "-1", "901"])
def test_how_far_clocks_may_differ_is_bounded(files, skew_s):
    with pytest.raises(errors.SettingsError, match="--signature-skew-s"):
        settings.read([*arguments(files), "--signature-skew-s", skew_s])


def run_program(files, **changes):
    """In a process of its own: logging is set up for a whole program, once."""
    command = [sys.executable, "-m", "kci.service.main", *arguments(files, **changes)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return ended.returncode, ended.stderr


def test_the_program_ends_with_one_sentence_when_it_cannot_run(files):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = run_program(files, listen=address)
        assert code == 1
        assert f"cannot listen on {address}" in said.splitlines()[-1]

    (files / "key").write_bytes(bytes(32))
    code, said = run_program(files)
    assert code == 1
    assert len(said.splitlines()) == 1
    assert "sealed with another key" in said
