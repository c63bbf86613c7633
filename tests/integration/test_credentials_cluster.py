"""Keys in a ConfigMap of a real cluster, read by a node's own identity."""

import asyncio
import secrets

import pytest

from kci.cli import credentials as command
from kci.client import errors
from kci.contract import credentials as api
from kci.kit import clock, secret, tasks
from kci.kube import client as clients
from kci.kube import resources
from kci.provider import credentials

pytestmark = pytest.mark.integration


def issued(name):
    return api.IssuedCredentials(
        access_key_id=name, secret_access_key="SK", security_token="T", expiration="2100-01-01T00:00:00Z"
    )


async def until_used(source, name):
    async with asyncio.timeout(60):
        while True:
            try:
                if (await source.get()).access_key == name:
                    return
            except errors.MissingCredentialsError:
                pass
            await asyncio.sleep(0.02)


@pytest.mark.requirement("R58")
@pytest.mark.guide("env TEMP_AKSK_CM")
async def test_a_node_follows_the_config_map_once_it_may_and_over_a_restart_of_the_server(
    api_server, applied
):
    name = f"user-temp-aksk-{secrets.token_hex(4)}"
    node = f"vk-{secrets.token_hex(4)}"

    def manifest(access_key):
        return command.to_manifest(issued(access_key), name=name, node_name=node)

    async with clients.Client(api_server.node(node)) as client:
        told = []
        source = credentials.Cluster(
            client,
            [credentials.Reference(resources.CONFIG_MAPS, name)],
            cipher_key=secret.Secret(""),
            clock=clock.SystemClock(),
            on_trouble=told.append,
        )
        async with tasks.background("credentials", source.run()):
            with pytest.raises(errors.MissingCredentialsError, match=r"forbidden.*get, list and watch"):
                await source.get()
            assert name in told[0]
            await applied(manifest("AK1"))
            await until_used(source, "AK1")
            # These keys are good for long, so no call looks: it is the watch that brings the next ones.
            await applied(manifest("AK2"))
            async with asyncio.timeout(5):
                await until_used(source, "AK2")
            await tasks.in_thread(api_server.stop_api_server)
            assert (await source.get()).access_key == "AK2"
            api_server.start_api_server()
            await tasks.in_thread(api_server.await_ready)
            await applied(manifest("AK3"))
            await until_used(source, "AK3")
