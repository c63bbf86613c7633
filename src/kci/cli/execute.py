"""`kci exec`: a command in a container, with its streams, its terminal and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty as terminals
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from kci.cli import access, groups
from kci.kit import channels, errors, tasks

if TYPE_CHECKING:
    from kci.client import client

_CHUNK_BYTES = 32 * 1024
# A reader that runs ahead of the connection waits.
_AHEAD = 4
_BROKEN = 255


class Socket(Protocol):
    """What is used of the client's WebSocket."""

    def __aiter__(self) -> AsyncIterator[Any]: ...

    async def send_bytes(self, data: bytes) -> None: ...


def add_commands(app: typer.Typer) -> None:
    app.command("exec", help="Run a command in a container: kci exec ID -c NAME -- COMMAND.")(execute)


def execute(
    group_id: groups.GroupArgument,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    container: groups.ContainerOption,
    *,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="With a terminal.")] = False,
    state_dir: access.StateDirOption = None,
) -> None:
    from kci.cli import group_rows

    tty = tty and sys.stdin.isatty()

    async def work(service: client.KciClient) -> int:
        group = group_rows.find(await service.list_container_groups(), group_id)
        uri = await service.exec_container_command(
            group.container_group_id, container, command, tty=tty, stdin=stdin, stderr=not tty
        )
        socket = await service.open_exec(uri)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if tty:
                    stack.enter_context(_raw_terminal())
                    sizes = stack.enter_context(_sizes())
                    _ = await stack.enter_async_context(tasks.background("sizes", _send_sizes(socket, sizes)))
                if stdin:
                    can_close = socket.protocol == channels.V5
                    _ = await stack.enter_async_context(
                        tasks.background("input", _send_input(socket, can_close=can_close))
                    )
                return await _show(socket)
        finally:
            await socket.close()

    raise typer.Exit(access.ask(state_dir, work))


async def _show(socket: Socket) -> int:
    """Write what comes until the end; returns the exit code. UserError if the command did not run."""
    async for message in socket:
        if not isinstance(message.data, bytes):
            # A service that speaks no channel protocol sends plain output.
            _write(1, str(message.data).encode())
            continue
        channel, data = channels.parse(message.data)
        if channel is channels.Channel.STATUS:
            code, why = channels.parse_status(data)
            if code is None:
                raise errors.UserError(f"cannot run the command: {why}")
            return code
        if channel in {channels.Channel.STDOUT, channels.Channel.STDERR}:
            _write(int(channel), data)
    typer.echo("the connection ended before the command did", err=True)
    return _BROKEN


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


async def _send_input(socket: Socket, *, can_close: bool) -> None:
    async for data in _read_input():
        await socket.send_bytes(channels.frame(channels.Channel.STDIN, data))
    if can_close:
        await socket.send_bytes(channels.close_frame(channels.Channel.STDIN))


async def _read_input() -> AsyncIterator[bytes]:
    """Standard input, whatever it is: a loop cannot wait for a file, and a thread that waits for a terminal
    must not hold up the end, so it is one that nobody waits for.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(_AHEAD)

    def read() -> None:
        with contextlib.suppress(RuntimeError, OSError):  # the loop has ended, or the terminal is gone
            data = b"-"
            while data:
                data = os.read(0, _CHUNK_BYTES)
                asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()

    threading.Thread(target=read, name="input", daemon=True).start()
    while data := await queue.get():
        yield data


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    terminals.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _sizes() -> Iterator[asyncio.Event]:
    """Set now and whenever the terminal changes its size."""
    changed = asyncio.Event()
    changed.set()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        yield changed
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def _send_sizes(socket: Socket, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        size = shutil.get_terminal_size()
        await socket.send_bytes(channels.resize_frame(channels.Resize(size.columns, size.lines)))
