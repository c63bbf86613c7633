"""Logs and commands: who may open which, how often and how many at once.

A command is opened in two steps: a signed call gives a ticket, whose token then opens the stream without a
signature. The token is good once, for a minute, and only while its group lives; kept is its hash alone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator

from kci.contract import errors, ids
from kci.contract import groups as api
from kci.link import types as link
from kci.service.app import accounts, groups
from kci.service.engines import port

_TOKEN_BYTES = 32
_TICKET_LIFE_S = 60.0
_MAX_TICKETS = 1000
_MAX_STREAMS = 400
_MAX_STREAMS_OF_TENANT = 200
_MAX_REMEMBERED = 10_000
_MAX_CONTENT_BYTES = 1024 * 1024
_READ_TIMEOUT_S = 10.0


@dataclasses.dataclass(frozen=True)
class Ticket:
    """Leave to run one command, once."""

    tenant_id: ids.TenantId
    group_id: ids.GroupId
    container: str
    options: link.ExecOptions
    expires_at_s: float


class StreamService:
    """The use cases. `replay_window_s` is how long a signature stays good, so how long it is remembered."""

    def __init__(
        self,
        service: groups.GroupService,
        engine: port.Engine,
        *,
        replay_window_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups = service
        self._engine = engine
        self._replay_window_s = replay_window_s
        self._monotonic = monotonic
        self._tickets: collections.OrderedDict[bytes, Ticket] = collections.OrderedDict()
        self._used: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._open: collections.Counter[ids.TenantId] = collections.Counter()

    async def read_log(self, tenant_id: ids.TenantId, request: api.DescribeContainerLog) -> str:
        """The last lines; of very long ones only the last MiB."""
        options = link.LogOptions(tail_lines=request.tail)
        kept: collections.deque[bytes] = collections.deque()
        size = 0
        asked = api.StreamContainerLog(
            container_group_id=request.container_group_id, container_name=request.container_name
        )
        try:
            async with (
                asyncio.timeout(_READ_TIMEOUT_S),
                self._opened_log(tenant_id, asked, options) as chunks,
            ):
                async for chunk in chunks:
                    kept.append(chunk)
                    size += len(chunk)
                    while size - len(kept[0]) >= _MAX_CONTENT_BYTES:
                        size -= len(kept.popleft())
        except TimeoutError as error:
            raise errors.ApiError(
                errors.SERVICE_UNAVAILABLE, "cannot read the log in time; try again later", retry_after_s=1
            ) from error
        return b"".join(kept)[-_MAX_CONTENT_BYTES:].decode("utf-8", "replace")

    @contextlib.asynccontextmanager
    async def open_log(
        self, tenant_id: ids.TenantId, request: api.StreamContainerLog
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        options = link.LogOptions(
            follow=request.follow,
            previous=request.previous,
            timestamps=request.timestamps,
            tail_lines=request.tail_lines,
            since_seconds=request.since_seconds,
            since_time=request.since_time,
            limit_bytes=request.limit_bytes,
        )
        async with self._opened_log(tenant_id, request, options) as chunks:
            yield chunks

    async def issue_ticket(self, identity: accounts.Identity, request: api.ExecContainerCommand) -> str:
        """The token that opens the command's stream."""
        api.check_exec(request)
        group_id = api.check_group_id(request.container_group_id)
        await self._groups.require(identity.tenant_id, group_id)
        self._refuse_replay(identity.signature)
        now_s = self._monotonic()
        while self._tickets and next(iter(self._tickets.values())).expires_at_s <= now_s:
            self._tickets.popitem(last=False)
        if len(self._tickets) >= _MAX_TICKETS:
            raise errors.ApiError(errors.TOO_MANY_REQUESTS, "cannot take more commands now", retry_after_s=5)
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._tickets[_hash(token)] = Ticket(
            tenant_id=identity.tenant_id,
            group_id=group_id,
            container=request.container_name,
            options=link.ExecOptions(
                command=request.command,
                tty=request.tty,
                stdin=request.tty if request.stdin is None else request.stdin,
                stdout=request.stdout,
                stderr=request.stderr and not request.tty,
            ),
            expires_at_s=now_s + _TICKET_LIFE_S,
        )
        return token

    async def redeem(self, token: str) -> Ticket:
        """The ticket, which is used up by this, whatever comes after."""
        ticket = self._tickets.pop(_hash(token), None)
        if ticket is None or ticket.expires_at_s <= self._monotonic():
            raise errors.ApiError(errors.ACCESS_DENIED, "cannot open a stream with this token")
        await self._groups.require(ticket.tenant_id, ticket.group_id)
        return ticket

    @contextlib.asynccontextmanager
    async def open_exec(self, ticket: Ticket) -> AsyncIterator[port.ExecStream]:
        with self._slot(ticket.tenant_id), _wrapped():
            async with self._engine.open_exec(ticket.group_id, ticket.container, ticket.options) as stream:
                yield stream

    async def wait_ended(self, ticket: Ticket) -> None:
        """Returns when the stream must end: its group is deleted, or the service stops."""
        await self._groups.wait_deleted(ticket.group_id)

    # ---- inside

    @contextlib.asynccontextmanager
    async def _opened_log(
        self, tenant_id: ids.TenantId, request: api.StreamContainerLog, options: link.LogOptions
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        api.check_container_name(request.container_name)
        group_id = api.check_group_id(request.container_group_id)
        await self._groups.require(tenant_id, group_id)
        with self._slot(tenant_id), _wrapped():
            async with self._engine.open_log(group_id, request.container_name, options) as chunks:
                yield chunks

    def _refuse_replay(self, signature: str) -> None:
        now_s = self._monotonic()
        while self._used and next(iter(self._used.values())) <= now_s:
            self._used.popitem(last=False)
        if signature in self._used:
            raise errors.ApiError(errors.REPLAYED_REQUEST)
        if len(self._used) >= _MAX_REMEMBERED:
            raise errors.ApiError(errors.TOO_MANY_REQUESTS, "cannot take more commands now", retry_after_s=30)
        # Good from `window` before the service's clock to `window` after it: remembered for both.
        self._used[signature] = now_s + 2 * self._replay_window_s

    @contextlib.contextmanager
    def _slot(self, tenant_id: ids.TenantId) -> Iterator[None]:
        if self._open[tenant_id] >= _MAX_STREAMS_OF_TENANT or self._open.total() >= _MAX_STREAMS:
            raise errors.ApiError(errors.TOO_MANY_REQUESTS, "cannot open more streams now", retry_after_s=5)
        self._open[tenant_id] += 1
        try:
            yield
        finally:
            self._open[tenant_id] -= 1


@contextlib.contextmanager
def _wrapped() -> Iterator[None]:
    """What the engine says, in the API's words."""
    try:
        yield
    except port.NotFoundError as error:
        raise errors.ApiError(errors.CONTAINER_NOT_FOUND, str(error), parameter="ContainerName") from error
    except port.InvalidError as error:
        raise errors.ApiError(errors.INVALID_PARAMETER_VALUE, str(error)) from error
    except port.EngineError as error:
        raise errors.ApiError(errors.SERVICE_UNAVAILABLE, retry_after_s=1) from error


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
