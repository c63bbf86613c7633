"""Before and after the machine is switched off hard: two runs, the second on the disk that the first left."""

import pathlib
import pickle

import node_world
import pytest
from node_world import FOREVER, until

from kci.kit import environment

WORLD = pathlib.Path(environment.read()["KCI_TEST_ROOT"], "world.pickle")


def save(world):
    WORLD.write_bytes(pickle.dumps(world))


def load():
    return pickle.loads(WORLD.read_bytes())


@pytest.fixture
async def node():
    async with node_world.opened() as it:
        yield it


async def test_before(node):
    async with node.kcilet():
        groups = {
            "always": node.add(FOREVER),
            "on-failure": node.add(FOREVER, policy="OnFailure"),
            "never": node.add(FOREVER, policy="Never"),
            "done": node.add("exit 0", policy="OnFailure"),
            "with-init": node.add(FOREVER, init={"one": "true", "two": "true"}),
        }
        node.agent.sync(tuple(groups.values()))
        forever = ("always", "on-failure", "never", "with-init")
        await until(lambda: all(node.is_ready(groups[name]) for name in forever))
        await until(lambda: node.status(groups["done"]).phase == "Succeeded")
    save((node.cluster.pods, groups))


async def test_after(node):
    node.cluster.pods, groups = load()
    done = node.status(groups["done"])
    async with node.kcilet():
        node.agent.sync(tuple(groups.values()))
        for name in ("always", "on-failure", "with-init"):
            group = groups[name]
            await until(lambda group=group: node.is_ready(group) and node.app(group).restart_count == 1)
            ended = node.app(group).last_state.terminated
            assert (ended.exit_code, ended.reason) == (255, "Unknown")
            assert node.status(group).pod_ip == group.interface.address
        await until(lambda: node.status(groups["never"]).phase == "Failed")
        never = node.app(groups["never"])
        assert (never.state.terminated.exit_code, never.state.terminated.reason) == (255, "Unknown")
        assert never.restart_count == 0
        assert node.status(groups["done"]) == done
        # In its new sandbox all begins anew.
        again = node.status(groups["with-init"]).init_container_statuses
        assert [(one.name, one.restart_count, one.ready) for one in again] == [
            ("one", 1, True),
            ("two", 1, True),
        ]
    await node_world.remove_all(node)
