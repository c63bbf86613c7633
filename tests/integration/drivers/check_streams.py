"""Exec, attach, ports and logs on a real container."""

import asyncio
import contextlib
import gzip
import hashlib
import pathlib
import random
import socket
import struct

import pytest
from drivers import machine as machines

from kci.kcilet import ports
from kci.kcilet.drivers.streams import sessions
from kci.kit import channels, netns, tasks
from kci.link import types as link

STDIN = channels.Channel.STDIN
SOCKETS = netns.SocketMaker()
BIG = 20 << 20
FORWARDED = 100 << 20
MANY_CONNECTIONS = 100
# A closed client ends its process within a second; the rest is for a machine that is busy.
MARGIN_S = 2.0


async def run(machine, started, peer, *command, **options):
    async with asyncio.timeout(machines.WITHIN_S):
        await machine.streams.exec(started.container_id, link.ExecOptions(command=command, **options), peer)


async def attach(machine, started, peer, **options):
    async with asyncio.timeout(machines.WITHIN_S):
        await machine.streams.attach(started.container_id, link.AttachOptions(**options), peer)


async def forward(machine, started, port, peer):
    async with asyncio.timeout(machines.WITHIN_S):
        await machine.streams.forward(started.sandbox_id, port, peer)


def leaving_peer(text, *messages):
    """A peer that leaves when it has read this text."""

    async def leave():
        await peer.until_output(text)
        peer.on_leave()

    peer = machines.Peer(*messages, leave)
    peer.on_leave = lambda: None
    return peer


async def sleeps(machine, started):
    """What the container's processes `sleep N` were started with."""
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done"
    lines = (await machine.ask(started, "sh", "-c", script)).splitlines()
    return {line.split()[1] for line in lines if line.startswith("sleep ")}


@contextlib.asynccontextmanager
async def listening(started, family, serve):
    """A server on the pod's loopback."""
    namespace = f"/proc/{sessions.first_process(started.sandbox_id)}/ns/net"
    server_socket = SOCKETS.make(netns.Namespace(namespace), family)
    server_socket.bind(("127.0.0.1" if family is socket.AF_INET else "::1", 8080))
    async with await asyncio.start_server(serve, sock=server_socket, backlog=256):
        yield


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def until_it_listens(machine, started):
    check = "until netstat -ltn | grep -q :8080; do sleep 0.05; done"
    assert await machine.ask(started, "sh", "-c", check) == ""


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


async def test_much_data_goes_both_ways_unchanged(machine, runs):
    started = await machine.run("sleep", "1000")
    size = runs.scale(quick=20, faults=100, release=100) << 20
    data = random.Random(7).randbytes(1 << 20) * (size >> 20)
    pieces = [channels.frame(STDIN, data[at : at + 60_000]) for at in range(0, size, 60_000)]
    peer = machines.Peer(*pieces, channels.close_frame(STDIN))
    await run(machine, started, peer, "cat", stdin=True)
    assert hashlib.sha256(peer.output()).digest() == hashlib.sha256(data).digest()
    assert peer.status()[0] == 0


async def test_a_peer_that_leaves_ends_its_command_and_nothing_else(machine):
    started = await machine.run("sleep", "1000")
    stays = machines.Peer()
    async with tasks.background("exec", run(machine, started, stays, "sh", "-c", "echo in; sleep 77 & wait")):
        await stays.until_output(b"in")
        leaves = leaving_peer(b"ready")
        # It is deaf to every hint, as are its children, and must not take the end for one of its input.
        script = "trap '' HUP TERM; sleep 88 & echo ready; cat > /dev/null; touch /fooled; sleep 99"
        async with asyncio.timeout(1.0 + MARGIN_S) as limit:
            leaves.on_leave = lambda: limit.reschedule(asyncio.get_running_loop().time() + 1.0 + MARGIN_S)
            await machine.streams.exec(
                started.container_id,
                link.ExecOptions(command=("sh", "-c", script), stdin=True),
                leaves,
            )
        assert await machine.ask(started, "sh", "-c", "ls /fooled 2>/dev/null || echo no") == "no\n"
        assert await sleeps(machine, started) == {"77", "1000"}


async def test_a_command_that_reads_nothing_ends_with_its_peer(machine):
    started = await machine.run("sleep", "1000")
    piece = channels.frame(STDIN, bytes(64 << 10))
    taken = asyncio.Event()

    class Endless(machines.Peer):
        async def receive(self):
            taken.set()
            return piece

    async with tasks.background(
        "exec", run(machine, started, Endless(), "sleep", "88", stdin=True)
    ) as running:
        _ = await taken.wait()
        while "88" not in await sleeps(machine, started):
            pass
        # What the server does when the connection of such a peer hangs up.
        running.cancel()
        _ = await asyncio.wait([running], timeout=1.0 + MARGIN_S)
        assert running.done()
    assert await sleeps(machine, started) == {"1000"}


@pytest.mark.parametrize("script", ["sleep 55", "sleep 55 & sleep 56", "exec sleep 55"])
async def test_no_process_is_left_of_many_commands_whose_peers_left(machine, script, runs):
    started = await machine.run("sleep", "1000")
    peers = [leaving_peer(b"ready") for _ in range(runs.scale(quick=25, faults=100, release=100))]
    await tasks.wait_all(
        (run(machine, started, peer, "sh", "-c", f"echo ready; {script}") for peer in peers), name="exec"
    )
    assert await sleeps(machine, started) == {"1000"}


async def test_a_container_is_attached_to_and_left_again(machine):
    started = await machine.run("sh", "-c", "while read line; do echo got $line; done; echo over", stdin=True)
    for word in (b"one", b"two"):
        peer = leaving_peer(b"got " + word, channels.frame(STDIN, word + b"\n"))
        await attach(machine, started, peer, stdin=True)
    seen = await machine.runtime.observe_pod(started.pod.uid)
    assert seen.containers[0].phase == ports.ContainerPhase.RUNNING
    assert await machine.log(started) == "got one\ngot two\n"


async def test_a_container_that_reads_once_sees_the_end_when_its_first_peer_leaves(machine):
    started = await machine.run("sh", "-c", "cat; echo over", stdin=True, stdin_once=True)
    peer = leaving_peer(b"word", channels.frame(STDIN, b"word\n"))
    await attach(machine, started, peer, stdin=True)
    assert (await machine.ended(started)).exit_code == 0
    assert await machine.log(started) == "word\nover\n"


async def test_a_containers_terminal_is_attached_to_with_its_size(machine):
    script = "until stty size | grep -q '45 123'; do sleep 0.05; done; echo has $(stty size); read x; exit 3"
    started = await machine.run("sh", "-c", script, stdin=True, tty=True)
    peer = machines.Peer(channels.resize_frame(channels.Resize(width=123, height=45)))
    async with tasks.background("attach", attach(machine, started, peer, stdin=True, tty=True)) as attached:
        await peer.until_output(b"has 45 123\r\n")
        await peer.push(channels.frame(STDIN, b"x\n"))
        await attached
    assert (await machine.ended(started)).exit_code == 3


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_port_gives_back_what_it_is_sent_over_many_connections_at_once(machine, family):
    started = await machine.run("sleep", "1000")
    texts = [b"connection %d\n" % number * 1000 for number in range(MANY_CONNECTIONS)]

    async def ask(text):
        peer = machines.Peer(channels.frame(STDIN, text), channels.close_frame(STDIN))
        await forward(machine, started, 8080, peer)
        assert peer.sent[-1] == (channels.Channel.CLOSE, bytes((channels.Channel.STDOUT,)))
        return peer.output()

    async with listening(started, family, echo):
        assert await tasks.wait_all(map(ask, texts), name="port") == texts


async def test_a_port_may_answer_after_its_client_has_ended_and_stop_before(machine):
    started = await machine.run("sleep", "1000")

    async def answer_late(reader, writer):
        read = await reader.read()
        writer.write(b"read %d" % len(read))
        await writer.drain()
        writer.close()

    async def answer_first(reader, writer):
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"late"
        writer.close()
        done.set()

    async with listening(started, socket.AF_INET, answer_late):
        peer = machines.Peer(channels.frame(STDIN, b"12345"), channels.close_frame(STDIN))
        await forward(machine, started, 8080, peer)
        assert peer.output() == b"read 5"
    done = asyncio.Event()
    async with listening(started, socket.AF_INET, answer_first):
        peer = machines.Peer()
        async with tasks.background("port", forward(machine, started, 8080, peer)) as forwarded:
            await peer.until_output(b"hello")
            await peer.push(channels.frame(STDIN, b"late"))
            await peer.push(channels.close_frame(STDIN))
            await forwarded
        async with asyncio.timeout(machines.WITHIN_S):
            await done.wait()


async def test_a_connection_that_is_reset_is_told(machine):
    started = await machine.run("sleep", "1000")

    async def reset(reader, writer):
        await reader.readexactly(1)
        now = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        writer.transport.abort()

    async with listening(started, socket.AF_INET, reset):
        peer = machines.Peer(channels.frame(STDIN, b"xy"))
        await forward(machine, started, 8080, peer)
        assert "connection reset by peer" in peer.status()[1]


async def test_much_data_goes_through_a_port_both_ways_unchanged(machine):
    started = await machine.run("nc", "-ll", "-p", "8080", "-e", "cat")
    await until_it_listens(machine, started)
    data = random.Random(5).randbytes(1 << 20) * (FORWARDED >> 20)
    pieces = [channels.frame(STDIN, data[at : at + 60_000]) for at in range(0, FORWARDED, 60_000)]
    peer = machines.Peer(*pieces, channels.close_frame(STDIN))
    await forward(machine, started, 8080, peer)
    assert hashlib.sha256(peer.output()).digest() == hashlib.sha256(data).digest()


async def test_a_port_where_nobody_listens_is_told_in_known_words(machine):
    started = await machine.run("sleep", "1000")
    peer = machines.Peer()
    await forward(machine, started, 81, peer)
    _, message = peer.status()
    assert "failed to connect to localhost:81" in message
    assert "dial tcp4 127.0.0.1:81: connect: connection refused" in message


async def test_a_connection_ends_with_its_peer(machine):
    started = await machine.run("nc", "-ll", "-p", "8080", "-e", "cat")
    await until_it_listens(machine, started)
    await forward(machine, started, 8080, leaving_peer(b"x", channels.frame(STDIN, b"x")))
    check = "while netstat -tn | grep -q ':8080.*ESTABLISHED'; do sleep 0.05; done; echo closed"
    assert await machine.ask(started, "sh", "-c", check) == "closed\n"


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


async def test_a_log_is_followed_over_its_rotations_line_by_line(machine):
    """Even by one who reads more slowly than it rotates."""
    started = await machine.run(
        "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; sleep 1000"
    )
    shown = b""
    parts = machine.streams.log(started.log_directory, "main", link.LogOptions(follow=True))
    async with asyncio.timeout(machines.WITHIN_S), contextlib.aclosing(parts):
        shown += await anext(parts)
        for _ in range(2):
            await machine.rotation(max_bytes=1).look()
            # The next moment has another name.
            await asyncio.sleep(1.0)
            shown += await anext(parts)
        while not shown.endswith(b"\n20000\n"):
            shown += await anext(parts)
    assert [int(line) for line in shown.splitlines()] == list(range(1, 20001))


async def test_rotated_logs_are_read_on_and_kept_few(machine):
    started = await machine.run("sh", "-c", "i=0; while read x; do i=$((i+1)); echo $i; done", stdin=True)
    for number in range(1, 7):
        peer = leaving_peer(b"%d\n" % number, channels.frame(STDIN, b"x\n"))
        await attach(machine, started, peer, stdin=True)
        await machine.rotation(max_bytes=1, max_files=4).look()
        await asyncio.sleep(1.0)
    folder = pathlib.Path(started.log_directory, "main")
    names = await tasks.in_thread(lambda: sorted(path.name for path in folder.iterdir()))
    assert [name.rpartition(".")[2] == "gz" for name in names] == [False, True, True, False], names
    packed = await tasks.in_thread((folder / names[1]).read_bytes)
    assert gzip.decompress(packed).endswith(b" F 4\n")
    # The newest that was put aside is read on, as is what is written now.
    assert await machine.log(started) == "6\n"
    peer = leaving_peer(b"7\n", channels.frame(STDIN, b"x\n"))
    await attach(machine, started, peer, stdin=True)
    assert await machine.log(started) == "6\n7\n"
    assert await machine.log(started, tail_lines=2) == "6\n7\n"
    assert await machine.log(started, tail_lines=1) == "7\n"
    assert await machine.log(started, tail_lines=0) == ""
    assert await machine.log(started, limit_bytes=3) == "6\n7"


async def test_a_log_that_lost_its_name_gets_it_back(machine):
    started = await machine.run("sh", "-c", "while read x; do echo $x; done", stdin=True)
    path = pathlib.Path(started.log_directory, "main", "0.log")
    await tasks.in_thread(path.rename, path.with_name("0.log.20200101-000000"))
    await machine.rotation().look()
    peer = leaving_peer(b"word\n", channels.frame(STDIN, b"word\n"))
    await attach(machine, started, peer, stdin=True)
    assert (await tasks.in_thread(path.read_text)).endswith(" F word\n")
