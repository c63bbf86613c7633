"""One part that is a process: started, awaited, watched, started again when it ends by itself.

starting ──ready──► ready ──ended──► restarting ──ready──► ready
   └──ended or too slow──► PartFailedError (only before it was ready for the first time)
"""

from __future__ import annotations

import asyncio
import signal

import structlog

from kci.kit import backoff, tasks
from kci.stack import board, commands, errors, layout, links, parts, probes, processes, record

log = structlog.get_logger(__name__)
PROBE_INTERVAL_S = 0.1
# A part that ends before it was ever ready gets another chance: what it needs may just have come up.
START_ATTEMPTS = 2
# After this long the next end is a new one, not one more of a series.
STABLE_S = 10.0
LOG_TAIL_LINES = 8
RESTART = backoff.Backoff(initial_s=0.5, cap_s=30.0)


class Runner:
    """Runs one part for ever. Cancelling `run` leaves the process: teardown.py ends it in its order."""

    def __init__(
        self,
        part: parts.Part,
        command: commands.Command,
        where: layout.Layout,
        account: board.Board,
        ready: asyncio.Event,
    ) -> None:
        # Set when it is ready for the first time, for those who need it.
        self._ready = ready
        self._part = part
        self._command = command
        self._account = account
        self._log_file = where.log(part)
        # What earlier runs have written to the log says nothing about this one.
        self._log_offset = processes.log_size(self._log_file)
        # Held: asyncio kills a process whose object is collected.
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        await self._check_ports()
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun = loop.time()
            reason = await self._start()
            if not reason:
                assert self._process is not None
                reason = _ended(await self._process.wait())
            ran_s = loop.time() - begun
            failures = 1 if ran_s > STABLE_S else failures + 1
            if not self._ready.is_set() and (
                failures >= START_ATTEMPTS or ran_s >= self._command.ready_timeout_s
            ):
                raise self._failed(reason)
            delay_s = RESTART.delay_s(failures)
            log.warning("part ended, starting it again", part=self._part, reason=reason, next_try_s=delay_s)
            self._account.update_part(
                self._part,
                state=record.PartState.RESTARTING,
                process=None,
                detail=reason,
                restarts=self._account.state.part(self._part).restarts + 1,
            )
            await asyncio.sleep(delay_s)

    async def _start(self) -> str:
        """Start it and wait until it is ready; empty, or why it does not run."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            self._process = await processes.start(self._command, self._log_file)
        except OSError as error:
            reason = f"cannot run {self._command.argv[0]}: {error.strerror}"
            if self._ready.is_set():
                # It ran before: the machine has no room for it just now.
                return reason
            raise self._failed(reason) from error
        identity = processes.observe(self._process.pid)
        self._account.update_part(
            self._part,
            state=record.PartState.RESTARTING if self._ready.is_set() else record.PartState.STARTING,
            process=identity,
            version=self._command.version,
            log_file=str(self._log_file),
        )
        reason = await self._await_ready(self._process)
        if reason:
            _ = await processes.stop(identity, self._command.stop_timeout_s)
            return reason
        self._account.update_part(
            self._part, state=record.PartState.RUNNING, detail="", started_in_s=round(loop.time() - begun, 2)
        )
        self._ready.set()
        return ""

    async def _await_ready(self, process: asyncio.subprocess.Process) -> str:
        """Empty, or why it is not ready."""
        assert self._command.probe is not None
        answer = "it was not asked yet"
        try:
            async with asyncio.timeout(self._command.ready_timeout_s):
                while process.returncode is None:
                    answer = await probes.ask(self._command.probe)
                    # Asked of this process, not of whoever else may answer there.
                    if not answer and process.returncode is None:
                        return ""
                    await asyncio.sleep(PROBE_INTERVAL_S)
        except TimeoutError:
            return f"it is not ready after {self._command.ready_timeout_s:g} s: {answer}"
        return _ended(process.returncode)

    async def _check_ports(self) -> None:
        for host, port, way_out in self._command.listens:
            if not await tasks.in_thread(links.is_port_free, host, port):
                remedy = f", or {way_out}" if way_out else ""
                raise self._failed(f"{host}:{port} is taken by another program; stop it{remedy}")

    def _failed(self, reason: str) -> errors.PartFailedError:
        tail = processes.last_lines(self._log_file, count=LOG_TAIL_LINES, offset=self._log_offset)
        return errors.PartFailedError(self._part, f"cannot start {self._part}: {reason}", log_tail=tail)


def _ended(code: int) -> str:
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"
