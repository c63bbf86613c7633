"""Logs, commands, attachments and ports: who may open which, how often and how many at once.

All but logs are opened in two steps: a signed call gives a ticket, whose token then opens the stream without
a signature. The token is good once, for a minute, for exactly what the call named, and only while its group
lives; kept is its hash alone.
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
from kci.service.app import accounts, groups, replays
from kci.service.engines import port

_TOKEN_BYTES = 32
_TICKET_LIFE_S = 60.0
_MAX_CONTENT_BYTES = 1024 * 1024
_READ_TIMEOUT_S = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How many streams may be open, and as many tickets wait to be used. A connection through a forwarded
    port is a stream of its own.
    """

    of_group: int = 128
    of_tenant: int = 512
    in_all: int = 1024


@dataclasses.dataclass(frozen=True)
class Command:
    container: str
    options: link.ExecOptions


@dataclasses.dataclass(frozen=True)
class Attachment:
    container: str
    options: link.AttachOptions


@dataclasses.dataclass(frozen=True)
class Port:
    number: int


Target = Command | Attachment | Port


@dataclasses.dataclass(frozen=True)
class Ticket:
    """Leave to open one stream, once."""

    tenant_id: ids.TenantId
    group_id: ids.GroupId
    target: Target
    expires_at_s: float


class StreamService:
    """The use cases."""

    def __init__(
        self,
        service: groups.GroupService,
        engine: port.Engine,
        *,
        replays: replays.Replays,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups = service
        self._engine = engine
        self._replays = replays
        self._limits = limits or Limits()
        self._monotonic = monotonic
        self._tickets: collections.OrderedDict[bytes, Ticket] = collections.OrderedDict()
        self._waiting = _Slots(self._limits)
        self._open = _Slots(self._limits)

    # ---- logs

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

    # ---- tickets: each gives the token that opens the stream

    async def start_command(self, identity: accounts.Identity, request: api.ExecContainerCommand) -> str:
        api.check_exec(request)
        options = link.ExecOptions(
            command=request.command,
            tty=request.tty,
            stdin=request.tty if request.stdin is None else request.stdin,
            stdout=request.stdout,
            stderr=request.stderr and not request.tty,
        )
        target = Command(request.container_name, options)
        return await self._issue(identity, request.container_group_id, target)

    async def attach(self, identity: accounts.Identity, request: api.AttachContainer) -> str:
        api.check_attach(request)
        options = link.AttachOptions(
            tty=request.tty,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr and not request.tty,
        )
        target = Attachment(request.container_name, options)
        return await self._issue(identity, request.container_group_id, target)

    async def forward_port(self, identity: accounts.Identity, request: api.PortForwardContainerGroup) -> str:
        api.check_port_forward(request)
        return await self._issue(identity, request.container_group_id, Port(request.port))

    async def redeem(self, token: str) -> Ticket:
        """The ticket, which is used up by this, whatever comes after."""
        ticket = self._tickets.pop(_hash(token), None)
        if ticket is not None:
            self._waiting.give_back(ticket.tenant_id, ticket.group_id)
        if ticket is None or ticket.expires_at_s <= self._monotonic():
            raise errors.ApiError(errors.ACCESS_DENIED, "cannot open a stream with this token")
        _ = await self._groups.require(ticket.tenant_id, ticket.group_id)
        return ticket

    # ---- streams

    @contextlib.asynccontextmanager
    async def open_stream(self, ticket: Ticket) -> AsyncIterator[port.Stream]:
        with self._open.taken(ticket.tenant_id, ticket.group_id), _wrapped():
            async with self._at_engine(ticket.group_id, ticket.target) as stream:
                yield stream

    async def wait_ended(self, ticket: Ticket) -> None:
        """Returns when the stream must end: its group is deleted, or the service stops."""
        await self._groups.wait_deleted(ticket.group_id)

    # ---- inside

    @contextlib.asynccontextmanager
    async def _opened_log(
        self, tenant_id: ids.TenantId, request: api.StreamContainerLog, options: link.LogOptions
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        api.check_log(request)
        group_id = api.check_group_id(request.container_group_id)
        _ = await self._groups.require(tenant_id, group_id)
        with self._open.taken(tenant_id, group_id), _wrapped():
            async with self._engine.open_log(group_id, request.container_name, options) as chunks:
                yield chunks

    async def _issue(self, identity: accounts.Identity, group: str, target: Target) -> str:
        group_id = api.check_group_id(group)
        _ = await self._groups.require(identity.tenant_id, group_id)
        await self._replays.refuse(identity)
        now_s = self._monotonic()
        while self._tickets and next(iter(self._tickets.values())).expires_at_s <= now_s:
            _, expired = self._tickets.popitem(last=False)
            self._waiting.give_back(expired.tenant_id, expired.group_id)
        self._waiting.take(identity.tenant_id, group_id)
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._tickets[_hash(token)] = Ticket(identity.tenant_id, group_id, target, now_s + _TICKET_LIFE_S)
        return token

    def _at_engine(
        self, group_id: ids.GroupId, target: Target
    ) -> contextlib.AbstractAsyncContextManager[port.Stream]:
        match target:
            case Command():
                return self._engine.open_exec(group_id, target.container, target.options)
            case Attachment():
                return self._engine.open_attach(group_id, target.container, target.options)
            case Port():
                return self._engine.open_port(group_id, target.number)


class _Slots:
    """Counts what is in use, and refuses what would be too much."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_group: collections.Counter[ids.GroupId] = collections.Counter()
        self._of_tenant: collections.Counter[ids.TenantId] = collections.Counter()
        self._in_all = 0

    def take(self, tenant_id: ids.TenantId, group_id: ids.GroupId) -> None:
        if (
            self._of_group[group_id] >= self._limits.of_group
            or self._of_tenant[tenant_id] >= self._limits.of_tenant
            or self._in_all >= self._limits.in_all
        ):
            raise errors.ApiError(errors.TOO_MANY_REQUESTS, "cannot open more streams now", retry_after_s=5)
        self._of_group[group_id] += 1
        self._of_tenant[tenant_id] += 1
        self._in_all += 1

    def give_back(self, tenant_id: ids.TenantId, group_id: ids.GroupId) -> None:
        self._in_all -= 1
        self._of_tenant[tenant_id] -= 1
        self._of_group[group_id] -= 1
        # Groups come and go; a counter keeps each that it ever saw.
        if not self._of_group[group_id]:
            del self._of_group[group_id]

    @contextlib.contextmanager
    def taken(self, tenant_id: ids.TenantId, group_id: ids.GroupId) -> Iterator[None]:
        self.take(tenant_id, group_id)
        try:
            yield
        finally:
            self.give_back(tenant_id, group_id)


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
        raise errors.ApiError(errors.SERVICE_UNAVAILABLE, str(error), retry_after_s=1) from error


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
