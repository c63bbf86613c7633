"""Exec and logs on a real container."""

import asyncio
import contextlib
import hashlib

from drivers import machine as machines

from kci.kit import channels, tasks
from kci.link import types as link

STDIN = channels.Channel.STDIN
BIG = 20 << 20


async def run(machine, started, peer, *command, **options):
    async with asyncio.timeout(machines.WITHIN_S):
        await machine.streams.exec(started.container_id, link.ExecOptions(command=command, **options), peer)


async def test_a_commands_outputs_and_exit_code_arrive(machine):
    started = await machine.run("sleep", "1000")
    peer = machines.Peer()
    await run(machine, started, peer, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert peer.output() == b"out\n"
    assert peer.output(channels.Channel.STDERR) == b"err\n"
    assert peer.status()[0] == 7


async def test_a_half_closed_input_ends_the_reading_and_not_the_answer(machine):
    started = await machine.run("sleep", "1000")
    peer = machines.Peer(
        channels.frame(STDIN, b"some text\n"), channels.frame(STDIN, b"and more"), channels.close_frame(STDIN)
    )
    await run(machine, started, peer, "sh", "-c", "cat; echo .end", stdin=True)
    assert peer.output() == b"some text\nand more.end\n"
    assert peer.status()[0] == 0


async def test_a_terminal_has_the_size_that_the_peer_says(machine):
    started = await machine.run("sleep", "1000")
    peer = machines.Peer(channels.resize_frame(channels.Resize(width=123, height=45)))
    wait_for_size = "until stty size | grep -q '45 123'; do sleep 0.05; done; stty size; tty"
    await run(machine, started, peer, "sh", "-c", wait_for_size, tty=True, stdin=True)
    assert b"45 123\r\n/dev/pts/" in peer.output()
    assert peer.status()[0] == 0


async def test_much_data_goes_both_ways_unchanged(machine):
    started = await machine.run("sleep", "1000")
    data = bytes(range(256)) * (BIG // 256)
    pieces = [channels.frame(STDIN, data[at : at + 60_000]) for at in range(0, BIG, 60_000)]
    peer = machines.Peer(*pieces, channels.close_frame(STDIN))
    await run(machine, started, peer, "cat", stdin=True)
    assert hashlib.sha256(peer.output()).digest() == hashlib.sha256(data).digest()
    assert peer.status()[0] == 0


async def test_a_peer_that_leaves_is_the_end_of_the_input(machine):
    started = await machine.run("sleep", "1000")

    async def leave():
        await peer.until_output(b"ready")

    peer = machines.Peer(channels.frame(STDIN, b"x"), leave)
    await run(machine, started, peer, "sh", "-c", "echo ready; cat > /dev/null; touch /ended", stdin=True)
    check = "until test -e /ended; do sleep 0.05; done; echo seen"
    assert await machine.ask(started, "sh", "-c", check) == "seen\n"


async def test_a_slow_peer_stops_the_process_and_fills_no_memory(machine):
    started = await machine.run("sleep", "1000")
    go_on = asyncio.Event()

    class SlowPeer(machines.Peer):
        async def send(self, message):
            await go_on.wait()
            await super().send(message)

    peer = SlowPeer()
    write = f"head -c {BIG} /dev/zero; echo done > /done"
    async with tasks.background("exec", run(machine, started, peer, "sh", "-c", write)) as running:
        until_it_waits = "until grep -qs pipe_write /proc/[0-9]*/wchan; do sleep 0.05; done; ls /done"
        assert await machine.ask(started, "sh", "-c", f"{until_it_waits} || echo waits") == "waits\n"
        go_on.set()
        await running
    assert len(peer.output()) == BIG


async def test_what_cannot_be_run_is_told_as_the_status(machine):
    started = await machine.run("sleep", "1000")
    peer = machines.Peer()
    await run(machine, started, peer, "/nonexistent")
    code, message = peer.status()
    assert code is None or code != 0
    assert "nonexistent" in message
    await machine.runtime.stop_container(started.container_id, 0)
    await machine.ended(started)
    peer = machines.Peer()
    await run(machine, started, peer, "true")
    assert peer.status()[0] is None


async def test_a_followed_log_ends_with_its_container(machine):
    script = "for i in 1 2 3; do echo line $i; sleep 0.1; done; printf unfinished"
    started = await machine.run("sh", "-c", script)
    async with asyncio.timeout(machines.WITHIN_S):
        assert await machine.log(started, follow=True) == "line 1\nline 2\nline 3\nunfinished"
    assert await machine.log(started, tail_lines=1) == "unfinished"


async def test_a_long_line_is_one_line(machine):
    started = await machine.run(
        "sh", "-c", "echo first; head -c 100000 /dev/zero | tr '\\0' x; echo; echo last"
    )
    await machine.ended(started)
    assert await machine.log(started, tail_lines=2) == "x" * 100_000 + "\nlast\n"


async def test_a_log_is_followed_over_its_rotation(machine):
    started = await machine.run("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    shown = b""
    parts = machine.streams.log(started.log_directory, "main", link.LogOptions(follow=True))
    async with asyncio.timeout(machines.WITHIN_S), contextlib.aclosing(parts):
        shown += await anext(parts)
        await machine.rotate_log(started)
        before = len(shown.splitlines())
        while len(shown.splitlines()) < before + 50:
            shown += await anext(parts)
    numbers = [int(line) for line in shown.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
