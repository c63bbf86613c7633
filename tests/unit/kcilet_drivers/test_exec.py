"""What a client is told whose streams cannot be had."""

import asyncio
import errno

import pytest
from fakes import kcilet_world

from kci.kcilet import ports
from kci.kcilet.drivers.streams import exec as execs
from kci.kit import channels
from kci.link import types as link


class Peer:
    def __init__(self):
        self.told = []

    async def send(self, message):
        self.told.append(channels.parse(message))

    async def receive(self):
        await asyncio.Event().wait()


async def never_answers():
    await asyncio.Event().wait()


async def refuses():
    raise ports.UnavailableError("cannot run a command in container c-1: the runtime does not answer")


async def leads_elsewhere():
    return "http://192.0.2.1:80/exec"


async def leads_to_nobody():
    raise ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")


@pytest.mark.parametrize(
    ("find_url", "told"),
    [
        (never_answers, "cannot have the streams within 10 s: the runtime does not answer"),
        (refuses, "cannot run a command in container c-1: the runtime does not answer"),
        (leads_elsewhere, "cannot use the runtime's streaming address '192.0.2.1:80': it is not loopback"),
        (leads_to_nobody, f"cannot have the streams: [Errno {errno.ECONNREFUSED}] Connect call failed"),
    ],
)
@pytest.mark.parametrize("options", [link.ExecOptions(command=("true",)), link.AttachOptions()])
def test_streams_that_cannot_be_had_are_told_in_a_sentence(find_url, told, options):
    peer = Peer()

    @kcilet_world.on_virtual_time
    async def run():
        await execs.run(find_url, options, peer, on_left=never_answers)

    run()
    [(channel, data)] = peer.told
    assert channel is channels.Channel.STATUS
    assert channels.parse_status(data) == (None, told)
