"""An engine in memory: behaves at the port as the real one does (tests/contract/test_engine.py)."""

import asyncio
import contextlib

from kci.kit import channels
from kci.link import types as link
from kci.service.engines import port


class MemoryEngine:
    """`wanted` is what it was told last; `logs` what its containers wrote, `usages` what they
    use."""

    def __init__(self):
        self.wanted = {}
        self.logs = {}
        self.security_groups = None
        self.usages = link.Usages()
        self._reports = {}
        self._line = None
        self._synced = False

    @contextlib.asynccontextmanager
    async def observe(self):
        self._synced = False
        self._line = asyncio.Queue()
        for known in self._reports.values():
            self._line.put_nowait(known)
        try:
            yield self._read()
        finally:
            self._synced = False
            self._line = None

    async def sync(self, groups, *, security_groups=None, store_id=""):
        self.security_groups = security_groups
        for group_id in set(self.wanted) - {group.group_id for group in groups}:
            self._end(group_id)
        for group in groups:
            self._start(group)
        self._synced = True

    async def set_security_groups(self, security_groups):
        self._require_sync()
        self.security_groups = security_groups

    async def ensure(self, group):
        self._require_sync()
        self._start(group)

    async def remove(self, group_id):
        self._require_sync()
        self._end(group_id)

    async def read_usage(self):
        self._require_sync()
        return self.usages

    @contextlib.asynccontextmanager
    async def open_log(self, group_id, container, options):
        self._require_sync()
        content = self.logs.get((group_id, container))
        if content is None:
            raise port.NotFoundError("cannot open the log: there is none")
        yield _once(content)

    @contextlib.asynccontextmanager
    async def open_exec(self, group_id, container, options):
        self._require_sync()
        if group_id not in self.wanted:
            raise port.NotFoundError("cannot run a command: the group is not here")
        yield _Echo()

    @contextlib.asynccontextmanager
    async def open_attach(self, group_id, container, options):
        async with self.open_exec(group_id, container, options) as stream:
            yield stream

    @contextlib.asynccontextmanager
    async def open_port(self, group_id, number):
        async with self.open_exec(group_id, "", None) as stream:
            yield stream

    async def _read(self):
        while True:
            yield await self._line.get()

    def _start(self, group):
        new = group.group_id not in self.wanted
        self.wanted[group.group_id] = group
        if new:
            self._report(group.group_id, link.Phase.RUNNING, group.generation)

    def _end(self, group_id):
        known = self.wanted.pop(group_id, None)
        if known is not None or group_id not in self._reports:
            self._report(group_id, link.Phase.GONE, known.generation if known else 0)

    def _report(self, group_id, phase, generation):
        report = link.GroupReport(group_id=group_id, generation=generation, phase=phase)
        self._reports[group_id] = report
        if self._line is not None:
            self._line.put_nowait(report)

    def _require_sync(self):
        if not self._synced:
            raise port.UnreachableError("cannot reach the engine: it is not in step yet")


class _Echo:
    """Gives its input back, and 0 when the input ends."""

    def __init__(self):
        self._out = asyncio.Queue()

    async def send(self, message):
        channel, data = channels.parse(message)
        if channel is channels.Channel.STDIN:
            self._out.put_nowait(channels.frame(channels.Channel.STDOUT, data))
        elif channel is channels.Channel.CLOSE:
            self._out.put_nowait(channels.frame(channels.Channel.STATUS, channels.exit_status(0)))
            self._out.put_nowait(None)

    async def receive(self):
        return await self._out.get()


async def _once(content):
    yield content
