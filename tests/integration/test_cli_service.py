"""The user's command against a real service, with the simulated kcilet behind it."""

import asyncio
import contextlib
import json
import subprocess
import sys

import pytest
import service_world

ACCOUNT = service_world.ALICE


@pytest.fixture
async def world(tmp_path):
    async with service_world.running(tmp_path) as running:
        yield running


@pytest.fixture
async def group_id(world):
    made = await world.alice.create_container_group(service_world.create_request())
    async with service_world.watching(world.alice) as watch:
        await service_world.until(watch, lambda change: change.group and change.group.status == "Running")
    return made


async def kci(world, *words, given=b""):
    """The command as a program of its own, with the guide's variables."""
    environment = {
        "KCI_ACCESS_KEY": ACCOUNT.access_key,
        "KCI_SECRET_KEY": ACCOUNT.secret_key.reveal(),
        "KCI_REGION": service_world.REGION,
        "KCI_ENDPOINT": f"http://{world.endpoint}",
        "PATH": "/usr/bin:/bin",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kci.cli.main", *words,
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, complaint = await process.communicate(given)
    return process.returncode, out, complaint.decode()


@pytest.mark.guide("form console")
async def test_groups_are_listed_and_shown_in_all_forms(world, group_id):
    code, out, _ = await kci(world, "groups")
    heading, row = out.decode().splitlines()
    assert (code, heading.split()) == (0, ["ID", "POD", "SIZE", "STATUS", "ADDRESS", "AGE"])
    assert row.split()[:2] == [group_id, "default/web-0"]

    _, out, _ = await kci(world, "groups", "-o", "json")
    assert [group["ContainerGroupId"] for group in json.loads(out)] == [group_id]

    for name in (group_id, "web-0", "default/web-0"):
        code, out, _ = await kci(world, "group", name)
        assert code == 0
        assert f"id              {group_id}" in out.decode()

    _, out, _ = await kci(world, "events", group_id, "-o", "json")
    assert json.loads(out)[0]["reason"] == "Created"
    _, out, _ = await kci(world, "subnets", "-o", "json")
    (subnet,) = json.loads(out)
    assert subnet | {"vpc": ""} == {
        "id": service_world.SUBNET_ID,
        "name": "Default",
        "cidr": "10.9.0.0/24",
        "gateway": "10.9.0.1",
        "vpc": "",
        "free": 252,
        "mtu": None,
        "groups": 1,
    }
    _, out, _ = await kci(world, "security-groups", "-o", "yaml")
    assert service_world.SECURITY_GROUP_ID in out.decode()
    _, out, _ = await kci(world, "packages", "-o", "json")
    assert {"cpu": 2, "memory": [2, 4, 8, 16]} in json.loads(out)


async def _answer(world, *words):
    code, out, complaint = await kci(world, *words)
    assert (code, complaint) == (0, ""), complaint
    return out.decode().strip()


async def test_a_network_is_made_and_ended(world):
    vpc_id = await _answer(world, "vpc", "create", "--cidr", "10.20.0.0/16", "--name", "web")
    listed = json.loads(await _answer(world, "vpcs", "-o", "json"))
    assert listed[1] == {"id": vpc_id, "name": "web", "cidr": "10.20.0.0/16", "default": False}
    made = json.loads(
        await _answer(
            world, "subnet", "create", "--vpc", vpc_id, "--cidr", "10.20.1.0/24", "--dns", "10.20.1.53",
            "--mtu", "1400", "-o", "json",
        )
    )  # fmt: skip
    assert (made["gateway"], made["free"], made["mtu"]) == ("10.20.1.1", 253, 1400)

    code, _, complaint = await kci(world, "subnet", "create", "--cidr", "10.20.2.0/24")
    assert code == 1
    assert complaint.startswith("cannot tell which VPC is meant: give --vpc, one of")
    code, _, complaint = await kci(world, "subnet", "create", "--vpc", vpc_id, "--cidr", "10.96.0.0/24")
    assert code == 1
    assert "outside of its VPC's range 10.20.0.0/16" in complaint
    code, _, complaint = await kci(world, "vpc", "delete", vpc_id)
    assert (code, "delete them first" in complaint) == (1, True)
    await _answer(world, "subnet", "delete", made["id"])
    await _answer(world, "vpc", "delete", vpc_id)
    assert len((await _answer(world, "vpcs")).splitlines()) == 2


async def test_what_a_security_group_lets_through_is_shown_and_changed(world):
    web = await _answer(world, "security-group", "create", "--name", "web")
    http = await _answer(
        world, "security-group", "allow", web, "in", "-p", "tcp", "--port", "80-81", "--description", "web"
    )
    await _answer(
        world,
        "security-group",
        "deny",
        web,
        "out",
        "--peer",
        service_world.SECURITY_GROUP_ID,
        "--priority",
        "7",
    )
    shown = json.loads(await _answer(world, "security-group", "show", web, "-o", "json"))
    assert [rule | {"id": ""} for rule in shown["rules"]] == [
        {"id": "", "priority": 50, "direction": "in", "does": "allow", "protocol": "tcp", "ports": "80-81",
         "peer": "0.0.0.0/0", "description": "web"},
        {"id": "", "priority": 7, "direction": "out", "does": "deny", "protocol": "ip", "ports": "all",
         "peer": service_world.SECURITY_GROUP_ID, "description": ""},
    ]  # fmt: skip
    lines = (await _answer(world, "security-group", "show", web)).splitlines()
    assert lines[0].split() == ["id", web]
    # The rule that is looked at first stands first.
    assert ["deny" in line for line in lines[-2:]] == [True, False]
    await _answer(world, "security-group", "revoke", web, http)
    (row,) = [line for line in (await _answer(world, "security-groups")).splitlines() if web in line]
    assert row.split()[-2:] == ["1", "0"]
    for words, told in (
        (("allow", web, "sideways"), "write `in` or `out`"),
        (("allow", web, "in", "--port", "80-"), "write 80, or 8000-8100"),
        (("revoke", web, http), "no such entry"),
        (("show", "nobody"), "`kci security-groups` lists"),
        (("delete", service_world.SECURITY_GROUP_ID), "goes with its VPC"),
    ):
        code, _, complaint = await kci(world, "security-group", *words)
        assert (code, told in complaint) == (1, True), complaint
    await _answer(world, "security-group", "delete", web)


async def test_a_missing_group_and_a_service_that_is_not_there_are_told_in_words(world):
    code, _, complaint = await kci(world, "group", "nobody")
    assert (code, complaint) == (1, "cannot find a group 'nobody': `kci groups` lists what there is\n")


async def test_a_log_is_printed_as_it_is(world, group_id):
    world.kcilet.logs[group_id, "web"] = b"one\ntwo \xff\n"
    assert await kci(world, "logs", "web-0", "-c", "web") == (0, b"one\ntwo \xff\n", "")
    code, _, complaint = await kci(world, "logs", "web-0", "-c", "other")
    assert code == 1
    assert complaint.startswith("cannot ")


async def test_a_command_gets_its_input_and_gives_its_output_and_code(world, group_id):
    sent = bytes(range(256)) * 4096
    code, out, _ = await kci(world, "exec", group_id, "-c", "web", "-i", "--", "cat", "-", given=sent)
    assert (code, out) == (0, sent)


async def test_the_shell_completes_ids(world, group_id):
    environment = {
        "_KCI_COMPLETE": "complete_bash",
        "COMP_WORDS": f"kci group {group_id[:4]}",
        "COMP_CWORD": "2",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import kci.cli.main as m; m.app(prog_name='kci')",
        env={
            **environment,
            "KCI_ACCESS_KEY": ACCOUNT.access_key,
            "KCI_SECRET_KEY": ACCOUNT.secret_key.reveal(),
            "KCI_REGION": service_world.REGION,
            "KCI_ENDPOINT": f"http://{world.endpoint}",
        },
        stdout=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert out.decode().split() == [group_id]


@contextlib.asynccontextmanager
async def following(world, *options):
    """`kci groups -w`, until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kci.cli.main", "groups", "-w", *options,
        env={
            "KCI_ACCESS_KEY": ACCOUNT.access_key,
            "KCI_SECRET_KEY": ACCOUNT.secret_key.reveal(),
            "KCI_REGION": service_world.REGION,
            "KCI_ENDPOINT": f"http://{world.endpoint}",
        },
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def test_the_list_goes_on_with_each_change(world, group_id):
    async with following(world) as out:
        assert (await out.readline()).split()[0] == b"ID"
        assert b"Running" in await out.readline()
        await world.alice.delete_container_group(group_id)
        while b"gone" not in await out.readline():
            pass


async def test_each_change_is_a_line_of_json(world, group_id):
    async with following(world, "-o", "json") as out:
        first = json.loads(await out.readline())
        assert (first["ContainerGroupId"], first["Status"]) == (group_id, "Running")
        await world.alice.delete_container_group(group_id)
        while json.loads(await out.readline()) != {"ContainerGroupId": group_id, "Absent": True}:
            pass


async def test_each_change_is_a_document_of_yaml(world, group_id):
    async with following(world, "-o", "yaml") as out:
        assert await out.readline() == b"---\n"
        assert await out.readline() == f"ContainerGroupId: {group_id}\n".encode()
        await world.alice.delete_container_group(group_id)
        while await out.readline() != b"Absent: true\n":
            pass
