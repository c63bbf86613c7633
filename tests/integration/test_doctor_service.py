"""What the doctor finds out of a KCI service, asked of a whole one on loopback."""

import datetime

import pytest
import service_world

from kci.doctor import examination, kci, subject
from kci.doctor.facts import kci as facts
from kci.kit import clock
from kci.kube import config
from kci.provider import settings


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


def told(world, **changed):
    alice = service_world.ALICE
    variables = {
        "VKUBELET_POD_IP": "127.0.0.1",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KCI_ACCESS_KEY": alice.access_key,
        "KCI_SECRET_KEY": alice.secret_key.reveal(),
        "KCI_REGION": service_world.REGION,
        "KCI_ENDPOINT": f"http://{world.endpoint}",
        "KCI_CLUSTER_ID": "c",
        "KCI_SUBNET_ID": service_world.SUBNET_ID,
        "KCI_SECURITY_GROUP_IDS": service_world.SECURITY_GROUP_ID,
    } | changed
    given = {name: value for name, value in variables.items() if value is not None}
    found, problems = settings.read([], given)
    assert problems == []
    return subject.Node(settings=found, config=config.ClusterConfig(server="https://127.0.0.1:1"))


async def ask(world, **changed):
    """Each question's findings, by its name."""
    node = told(world, **changed)
    async with facts.Service(node.settings, None) as service:
        asked = examination.of(kci.AREA, kci.Questions(service, node), kci.ALL, why="")
        return {one.name: one.findings for one in await examination.examine(asked)}


def levels(answers):
    return {name: [one.level.value for one in found] for name, found in answers.items()}


async def test_a_service_that_has_what_the_node_names_is_well(world):
    assert levels(await ask(world)) == {
        "endpoint": ["ok"],
        "clock": ["ok"],
        "keys": ["ok"],
        "temporary keys": ["not looked at"],
        "subnet": ["ok"],
        "security groups": ["ok"],
    }


@pytest.mark.parametrize(
    ("changed", "name", "says"),
    [
        ({"KCI_SECRET_KEY": "wrong"}, "keys", "SignatureDoesNotMatch"),
        ({"KCI_ACCESS_KEY": "nobody"}, "keys", "refuses the keys"),
        ({"KCI_REGION": "cn-other-1"}, "keys", "refuses the keys"),
        ({"KCI_ENDPOINT": "http://127.0.0.1:1"}, "endpoint", "nobody listens there"),
        ({"KCI_SUBNET_ID": "66666666-6666-4666-8666-666666666666"}, "subnet", "has no subnet"),
        ({"KCI_SUBNET_ID": service_world.BOBS_SUBNET_ID}, "subnet", "has no subnet"),
        (
            {"KCI_SECURITY_GROUP_IDS": f"{service_world.SECURITY_GROUP_ID},other"},
            "security groups",
            "no security group other",
        ),
    ],
)
async def test_what_the_node_names_wrongly_is_found(world, changed, name, says):
    found = (await ask(world, **changed))[name]
    assert [one.level.value for one in found] == ["wrong"]
    assert says in found[0].text
    assert found[0].remedy


async def test_of_a_service_that_is_away_one_line_is_wrong(world):
    found = levels(await ask(world, KCI_ENDPOINT="http://127.0.0.1:1"))
    assert found.pop("endpoint") == ["wrong"]
    assert set(map(tuple, found.values())) == {("not looked at",)}


async def test_temporary_keys_in_a_folder_are_found_good_ended_or_absent(world, tmp_path):
    folder = tmp_path / "aksk"
    of_folder = {"KCI_ACCESS_KEY": None, "KCI_SECRET_KEY": None, "AKSK_FILE_PATH": str(folder)}
    absent = await ask(world, **of_folder)
    assert levels(absent)["temporary keys"] == ["wrong"]
    assert levels(absent)["keys"] == ["wrong"]
    end = clock.SystemClock().now() + datetime.timedelta(hours=1)
    issued = world.accounts.issue(service_world.ALICE.access_key, expires_at=end)
    keys = issued.credentials
    folder.mkdir()
    for name, text in (
        ("ak", keys.access_key),
        ("sk", keys.secret_key.reveal()),
        ("securityToken", keys.security_token.reveal()),
        ("expired_at", end.strftime("%Y-%m-%dT%H:%M:%S")),
    ):
        (folder / name).write_text(text)
    good = levels(await ask(world, **of_folder))
    assert (good["temporary keys"], good["keys"]) == (["ok"], ["ok"])
    (folder / "expired_at").write_text("2020-01-01T00:00:00")
    assert "ended at 2020-01-01" in (await ask(world, **of_folder))["temporary keys"][0].text
