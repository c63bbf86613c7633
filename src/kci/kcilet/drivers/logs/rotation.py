"""Keeping containers' logs small: a log that has grown too large is put aside and a new one begun.

Ported from pkg/kubelet/logs/container_log_manager.go (Kubernetes 1.36). `0.log` becomes
`0.log.20261123-180000`, and the runtime is told to open `0.log` anew. What was put aside before is
compressed then, not at once: readers may still be at it. The oldest goes when there are too many. What
differs: two rotations within a second wait for each other, a kubelet would lose the first.

A crash between any two steps loses nothing: a log without its name is opened anew by the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import pathlib
import re
import shutil
from collections.abc import Awaitable, Callable, Sequence

import structlog

from kci.kcilet import ports
from kci.kit import clock as clocks
from kci.kit import crashpoints, tasks

log = structlog.get_logger(__name__)

_GZ, _TMP = ".gz", ".tmp"
_ROTATED = re.compile(r"\d{8}-\d{6}(\.gz|\.tmp)?")
_COPY_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """A kubelet's containerLogMaxSize, containerLogMaxFiles and containerLogMonitorInterval."""

    max_bytes: int = 10 << 20
    # With the one that is written.
    max_files: int = 5
    look_every_s: float = 10.0


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What is to be done with what was put aside before, oldest first."""

    remove: Sequence[str]
    compress: Sequence[str]


class Rotation:
    """`run` for as long as the program runs. `list_written` and `reopen` are the runtime driver's."""

    def __init__(
        self,
        *,
        list_written: Callable[[], Awaitable[list[tuple[ports.ContainerId, pathlib.Path]]]],
        reopen: Callable[[ports.ContainerId], Awaitable[None]],
        policy: Policy,
        clock: clocks.Clock,
    ) -> None:
        self._list_written = list_written
        self._reopen = reopen
        self._policy = policy
        self._clock = clock

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._policy.look_every_s)
            try:
                await self.look()
            except ports.DriverError as error:
                log.warning("logs not looked at", error=str(error))

    async def look(self) -> None:
        """Rotate what is too large. What goes wrong with one log keeps no other from its turn."""
        for container_id, path in await self._list_written():
            try:
                await self._look_at(container_id, path)
            except (ports.DriverError, OSError) as error:
                log.warning("log not rotated", path=str(path), error=str(error))

    async def _look_at(self, container_id: ports.ContainerId, path: pathlib.Path) -> None:
        try:
            size = (await tasks.in_thread(path.stat)).st_size
        except FileNotFoundError:
            # An earlier rotation was cut short, or somebody removed it: what is written now is lost to all.
            await self._reopen(container_id)
            return
        if size >= self._policy.max_bytes:
            await tasks.in_thread(_clean, path, self._policy.max_files)
            await self._put_aside(container_id, path)

    async def _put_aside(self, container_id: ports.ContainerId, path: pathlib.Path) -> None:
        moment = self._clock.now().strftime("%Y%m%d-%H%M%S")
        aside = path.with_name(f"{path.name}.{moment}")
        if await tasks.in_thread(aside.exists):
            return
        crashpoints.reached("logs.rotation.rename.before")
        await tasks.in_thread(path.rename, aside)
        crashpoints.reached("logs.rotation.reopen.before")
        try:
            await self._reopen(container_id)
        except BaseException:
            await tasks.in_thread(_give_back, aside, path)
            raise
        crashpoints.reached("logs.rotation.reopen.after")
        log.debug("log rotated", path=str(path), aside=aside.name)


def plan_cleaning(names: Sequence[str], *, max_files: int) -> Cleaning:
    """Before one more is put aside. `names` are all that bear the log's name and a moment."""
    known = frozenset(names)
    unused = [name for name in names if name.endswith(_TMP) or name + _GZ in known]
    used = sorted(name for name in names if name not in unused)
    # The one that is about to be put aside and the new one are two more.
    excess = max(0, len(used) - max(0, max_files - 2))
    kept = used[excess:]
    return Cleaning(
        remove=[*unused, *used[:excess]], compress=[name for name in kept if not name.endswith(_GZ)]
    )


def list_put_aside(path: pathlib.Path) -> list[str]:
    """The names of what was put aside of this log, and of what was being made of that."""
    prefix = f"{path.name}."
    return [
        entry.name
        for entry in path.parent.iterdir()
        if entry.name.startswith(prefix) and _ROTATED.fullmatch(entry.name[len(prefix) :])
    ]


def _give_back(aside: pathlib.Path, path: pathlib.Path) -> None:
    """The log is written on under its new name: give it back its own, unless the runtime has made a new file
    there all the same.
    """
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(aside)
        aside.unlink()


def _clean(path: pathlib.Path, max_files: int) -> None:
    cleaning = plan_cleaning(list_put_aside(path), max_files=max_files)
    for name in cleaning.remove:
        path.with_name(name).unlink(missing_ok=True)
    for name in cleaning.compress:
        _compress(path.with_name(name))


def _compress(path: pathlib.Path) -> None:
    making = path.with_name(path.name + _TMP)
    with contextlib.ExitStack() as stack:
        stack.callback(making.unlink, missing_ok=True)
        with path.open("rb") as plain, gzip.open(making, "wb", compresslevel=6) as packed:
            shutil.copyfileobj(plain, packed, _COPY_BYTES)
        making.chmod(path.stat().st_mode & 0o777)
        making.rename(path.with_name(path.name + _GZ))
    path.unlink(missing_ok=True)
