"""What is left of a program's files after a loss of power: only the bytes that it had told the disk to keep.

The program's writes, fsyncs and sent bytes are recorded by strace, in their order; a loss of power may then
be placed after any of them, as often as one likes.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator

_CALLS = "write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync,ftruncate"
_LINE = re.compile(r"(?P<thread>\d+) +(?P<rest>.*)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_CALL = re.compile(r"(?P<name>\w+)\(\d+<(?P<file>[^>]*)>(?P<rest>.*)")
_DATA = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def wrapper(trace: pathlib.Path) -> tuple[str, ...]:
    """Before the command that is to be recorded; the command keeps its process id (-D)."""
    return (
        "strace", "-D", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "1000000", "-o", str(trace),
        "-e", f"trace={_CALLS}",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Event:
    """One call that ended well. `data` is what was written or sent, `number` its place or the new size."""

    name: str
    file: str
    data: bytes
    number: int


def is_complete(trace: pathlib.Path) -> bool:
    """The recorded program has ended, and strace with it."""
    lines = trace.read_text().splitlines()
    return bool(lines) and lines[-1].endswith(("+++ exited with 0 +++", "+++ killed by SIGKILL +++"))


def read(trace: pathlib.Path) -> Iterator[Event]:
    """In the order in which the calls ended; what is sent may arrive from where the call began."""
    begun: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, call = match["thread"], match["rest"]
        if call.endswith(_UNFINISHED):
            begun[thread] = call.removesuffix(_UNFINISHED)
            if _is_send(call):
                yield from _event(call)
            continue
        if resumed := _RESUMED.match(call):
            started = begun.pop(thread, "")
            call = "" if _is_send(started) else started + call[resumed.end() :]
        if not call.rpartition("= ")[2].startswith("-1"):
            yield from _event(call)


class Disk:
    """The files of one folder, as the program sees them and as the disk keeps them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._seen: dict[str, bytearray] = collections.defaultdict(bytearray)
        self._kept: dict[str, bytes] = {}
        for path in folder.iterdir():
            if path.is_file():
                self._seen[path.name] = bytearray(path.read_bytes())
                self._kept[path.name] = path.read_bytes()

    def apply(self, event: Event) -> None:
        path = pathlib.Path(event.file)
        if path.parent != self._folder:
            return
        content = self._seen[path.name]
        match event.name:
            case "pwrite64":
                content.extend(bytes(max(0, event.number - len(content))))
                content[event.number : event.number + len(event.data)] = event.data
            case "ftruncate":
                del content[event.number :]
                content.extend(bytes(event.number - len(content)))
            case "fsync" | "fdatasync":
                self._kept[path.name] = bytes(content)
            case _:
                return

    def keep_only(self, names: tuple[str, ...], folder: pathlib.Path) -> None:
        """These files as they are after a loss of power now."""
        for name in names:
            (folder / name).unlink(missing_ok=True)
            if name in self._kept:
                (folder / name).write_bytes(self._kept[name])


def _is_send(call: str) -> bool:
    return call.startswith(("write(", "writev(", "sendto(", "sendmsg("))


def _event(call: str) -> Iterator[Event]:
    match = _CALL.match(call)
    if match is None:
        return
    data = b"".join(_unescape(part) for part in _DATA.findall(match["rest"]))
    arguments = _DATA.sub("", match["rest"]).partition(")")[0]
    numbers = [int(part) for part in arguments.split(",") if part.strip().isdigit()]
    yield Event(match["name"], _unescape(match["file"]).decode(), data, numbers[-1] if numbers else 0)


def _unescape(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
