"""The client: one method per action that we use; those of the service `vpc` are in `networks.py`.

Retrying is the caller's business, save for reads, which are tried three times unless told otherwise, and for
credentials that ended: then other ones are looked for and the call is sent once more, whichever it is. A
create whose outcome is unknown raises UnreachableError; the caller looks it up before anything else.
Redirects are never followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import SimpleNamespace
from typing import Self, TypeVar

import aiohttp
import msgspec
import yarl
from aiohttp import http_exceptions

from kci.client import answers, credentials, errors, networks, pages
from kci.contract import capabilities, groups, ids, operations, packages, signing, starts, usage, wire
from kci.contract import credentials as temporary
from kci.contract import errors as catalogue
from kci.kit import backoff as backoffs
from kci.kit import channels, clock, observing, sockets

T = TypeVar("T")

_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_MAX_STREAM_MESSAGE_BYTES = 1024 * 1024
_READ_ATTEMPTS = 3
_LIST_ATTEMPTS = 3
_MAX_PAGES = 1000
_WATCH_SILENCE_S = 45.0
_LOG_CHUNK_BYTES = 64 * 1024
# A service that is held up by a process that does not read sees no goodbye: soon it sees that we are gone.
_CLOSE_S = 0.3


class KciClient:
    """Used as `async with KciClient(…) as client:`. An endpoint without a scheme is reached over https,
    one on loopback over http.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        region: str,
        credentials: credentials.CredentialSource,
        timeout_s: float = 15.0,
        read_attempts: int = _READ_ATTEMPTS,
        clock: clock.Clock = clock.SystemClock(),  # noqa: B008  (it has no state)
        on_call: observing.OnCall = observing.no_call,
    ) -> None:
        """`on_call` is told of each call but streams, by its action."""
        self._on_call = on_call
        self._url = _parse_endpoint(endpoint)
        self._region = region
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._read_attempts = read_attempts
        self._clock = clock
        self._read_backoff = backoffs.Backoff(initial_s=0.2, cap_s=2.0)
        self._session: aiohttp.ClientSession | None = None
        self._opened = sockets.Opened()
        # What the service said of itself when it was asked; nothing is taken for granted before.
        self._offered = capabilities.Capabilities()
        # Networks and security groups, behind the same keys.
        self.vpc = networks.VpcCalls(call=self._call, read=self._read)

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=self._opened),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=min(5.0, self._timeout_s)),
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
            ws_response_class=_Stream,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            await self._opened.end()

    # ---- container groups

    async def create_container_group(self, request: groups.CreateContainerGroup) -> ids.GroupId:
        """Sent once. After UnreachableError with `reached` None the group may exist: look it up."""
        created = await self._call(operations.CREATE_CONTAINER_GROUP, request, groups.Created)
        return created.container_group_id

    async def list_container_groups(
        self,
        *,
        ids: Sequence[ids.GroupId] = (),
        filters: Mapping[str, Iterable[str]] | None = None,
    ) -> list[groups.ContainerGroup]:
        """All groups, or those of these ids. The list is whole or an error is raised: pages that do not
        fit together are read anew, a few times. Coming and going groups lead to that unless the service is
        known to have capabilities.ORDERED_LIST (pages.py).
        """
        found: list[groups.ContainerGroup] = []
        chunks = [
            tuple(ids[start : start + groups.MAX_PAGE]) for start in range(0, len(ids), groups.MAX_PAGE)
        ]
        for chunk in chunks or [()]:
            request = groups.DescribeContainerGroup(
                container_group_id=chunk,
                max_results=groups.MAX_PAGE,
                filter=tuple(
                    groups.Filter(name=name, value=tuple(values))  # type: ignore[arg-type]  # checked by the service
                    for name, values in (filters or {}).items()
                ),
            )
            found += await self._list_all(request)
        return found

    async def delete_container_group(
        self, group_id: ids.GroupId, *, fence: groups.Fence | None = None
    ) -> None:
        """Asks for it; the group is gone once it is no longer listed. NotFoundError if it is not there.
        A fence needs capabilities.FENCED_WRITES.
        """
        request = groups.DeleteContainerGroup(container_group_id=group_id, fence=fence)
        await self._call(operations.DELETE_CONTAINER_GROUP, request, groups.Done)

    async def watch_container_groups(
        self, *, cluster_id: str = "", node_name: str = ""
    ) -> AsyncGenerator[groups.GroupChange, None]:
        """Each group now, the mark `synced`, then each change, for ever; ends by an error only.
        Needs capabilities.GROUP_WATCH.
        """
        request = groups.WatchContainerGroups(cluster_id=cluster_id, node_name=node_name)
        async with self._stream(operations.WATCH_CONTAINER_GROUPS, request) as content:
            while True:
                with _wrapped(operations.WATCH_CONTAINER_GROUPS.action):
                    async with asyncio.timeout(_WATCH_SILENCE_S):
                        line = await content.readline()
                if not line:
                    raise errors.UnreachableError("cannot go on watching container groups: the stream ended")
                if line.strip():
                    yield _read_change(line)

    async def describe_kci_packages(self) -> packages.Table:
        """The sizes that there are."""
        answer = await self._read(
            operations.DESCRIBE_KCI_PACKAGES,
            packages.DescribeKciPackages(kci_type="RBKCI"),
            packages.PackageList,
        )
        try:
            return packages.to_table(answer.packages)
        except ValueError as error:
            raise errors.InvalidError(f"cannot use the sizes that the service offers: {error}") from error

    async def describe_container_group_usage(
        self, *, cluster_id: str = "", node_name: str = ""
    ) -> tuple[usage.ContainerGroupUsage, ...]:
        """What all groups use, or those of one cluster or node. Needs capabilities.GROUP_USAGE."""
        request = usage.DescribeContainerGroupUsage(cluster_id=cluster_id, node_name=node_name)
        answer = await self._read(
            operations.DESCRIBE_CONTAINER_GROUP_USAGE, request, usage.ContainerGroupUsages
        )
        return answer.container_group_usages

    # ---- logs, commands, ports

    async def describe_container_log(self, group_id: ids.GroupId, container: str, tail: int) -> str:
        request = groups.DescribeContainerLog(
            container_group_id=group_id, container_name=container, tail=tail
        )
        answer = await self._read(operations.DESCRIBE_CONTAINER_LOG, request, groups.ContainerLog)
        return answer.content

    async def stream_container_log(
        self, group_id: ids.GroupId, container: str, options: groups.StreamContainerLog | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The log's bytes; the ids in `options` are filled in here. Close the iterator to stop following
        (contextlib.aclosing). Needs capabilities.LOG_STREAM.
        """
        request = msgspec.structs.replace(
            options or groups.StreamContainerLog(), container_group_id=group_id, container_name=container
        )
        async with self._stream(operations.STREAM_CONTAINER_LOG, request) as content:
            # Says that the stream is open: a silent container may have nothing else to say for long.
            yield b""
            while True:
                with _wrapped(operations.STREAM_CONTAINER_LOG.action):
                    chunk = await content.read(_LOG_CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    async def exec_container_command(
        self,
        group_id: ids.GroupId,
        container: str,
        command: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> str:
        """The address to give to `open_exec`: a bearer credential, good once and for a minute."""
        request = groups.ExecContainerCommand(
            container_group_id=group_id,
            container_name=container,
            command=tuple(command),
            tty=tty,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        answer = await self._call(operations.EXEC_CONTAINER_COMMAND, request, groups.StreamAddress)
        return answer.web_socket_uri

    async def attach_container(
        self,
        group_id: ids.GroupId,
        container: str,
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> str:
        """The address to give to `open_exec`, as that of a command. Needs capabilities.ATTACH."""
        request = groups.AttachContainer(
            container_group_id=group_id,
            container_name=container,
            tty=tty,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        answer = await self._call(operations.ATTACH_CONTAINER, request, groups.StreamAddress)
        return answer.web_socket_uri

    async def forward_port(self, group_id: ids.GroupId, port: int) -> str:
        """The address to give to `open_exec`, for one connection to a port of the group.
        Needs capabilities.PORT_FORWARD.
        """
        request = groups.PortForwardContainerGroup(container_group_id=group_id, port=port)
        answer = await self._call(operations.PORT_FORWARD_CONTAINER_GROUP, request, groups.StreamAddress)
        return answer.web_socket_uri

    async def open_exec(self, uri: str) -> aiohttp.ClientWebSocketResponse:
        """The stream of a command, an attachment or a port; its `protocol` says whether the other side
        speaks v5 or v4.
        """
        with _wrapped("open a stream"):
            try:
                stream = await self._active().ws_connect(
                    uri,
                    protocols=(channels.V5, channels.V4),
                    max_msg_size=_MAX_STREAM_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                )
            except aiohttp.WSServerHandshakeError as error:
                # The error's own text has the address in it, which is a credential.
                raise _handshake_error(error.status, channels.refusal_of(error.headers)) from None
            sockets.keep_alive(stream.get_extra_info("socket"))
            sockets.reset_when_closed(stream.get_extra_info("socket"))
            return stream

    # ---- extensions

    async def describe_capabilities(self) -> capabilities.Capabilities:
        """The extensions of the service behind the endpoint; none if it does not know the question."""
        try:
            answer = await self._read(
                operations.DESCRIBE_CAPABILITIES, groups.DescribeCapabilities(), groups.CapabilityList
            )
        except errors.InvalidError as error:
            if error.code == catalogue.INVALID_ACTION.code:
                return capabilities.Capabilities()
            raise
        self._offered = capabilities.Capabilities(frozenset(answer.capabilities))
        return self._offered

    async def describe_container_group_start(self, group_id: ids.GroupId) -> starts.GroupStart:
        """When the group was made and how its start went. Needs capabilities.GROUP_START."""
        request = starts.DescribeContainerGroupStart(container_group_id=group_id)
        return await self._read(operations.DESCRIBE_CONTAINER_GROUP_START, request, starts.GroupStart)

    async def issue_credentials(self, duration_s: int) -> temporary.IssuedCredentials:
        """Temporary ones with the rights of ours. Needs capabilities.TEMPORARY_CREDENTIALS."""
        request = temporary.IssueCredentials(duration_seconds=duration_s)
        return await self._call(operations.ISSUE_CREDENTIALS, request, temporary.IssuedCredentials)

    # ---- inside

    async def _list_all(self, request: groups.DescribeContainerGroup) -> list[groups.ContainerGroup]:
        problem = ""
        for _ in range(_LIST_ATTEMPTS):
            listing = pages.Pages(are_ordered=self._offered.has(capabilities.ORDERED_LIST))
            for _ in range(_MAX_PAGES):
                asked = msgspec.structs.replace(request, marker=listing.marker)
                listing.add(
                    await self._read(operations.DESCRIBE_CONTAINER_GROUP, asked, groups.ContainerGroups)
                )
                if listing.is_last:
                    break
            else:
                raise errors.UnreachableError(f"cannot list container groups: more than {_MAX_PAGES} pages")
            if not listing.problem:
                return listing.listed
            problem = listing.problem
        raise errors.UnreachableError(
            f"cannot list container groups: the pages do not fit together: {problem}"
        )

    async def _read(self, operation: operations.Operation, request: groups.Parameters, kind: type[T]) -> T:
        """A call that changes nothing, tried again where that may help."""
        for attempt in range(1, self._read_attempts):
            try:
                return await self._call(operation, request, kind)
            except errors.UnreachableError:
                await asyncio.sleep(self._read_backoff.delay_s(attempt))
        return await self._call(operation, request, kind)

    async def _call(self, operation: operations.Operation, request: groups.Parameters, kind: type[T]) -> T:
        async def send(keys: signing.Credentials) -> T:
            limits = aiohttp.ClientTimeout(total=self._timeout_s)
            with _wrapped(operation.action):
                async with self._send(operation, request, keys, limits) as answer:
                    reply = await _reply(answer)
            return answers.read(reply, kind, action=operation.action)

        where: observing.Attributes = {
            "rpc.service": operation.service,
            "rpc.method": operation.action,
            "http.request.method": "POST",
            "server.address": self._url.host or "",
            "server.port": self._url.port or 0,
        }
        with (
            observing.told(self._on_call, operation.action),
            observing.step(operation.action, kind=observing.Kind.CLIENT, attributes=where),
        ):
            return await self._signed(send)

    async def _signed(self, send: Callable[[signing.Credentials], Awaitable[T]]) -> T:
        """Once more, with other credentials, if the service calls the first ones expired: it did nothing."""
        keys = await self._credentials.get()
        try:
            return await send(keys)
        except errors.RefusedError as error:
            if error.code != catalogue.SECURITY_TOKEN_EXPIRED.code:
                raise
            others = await self._credentials.replace(keys)
            if others == keys:
                raise
        return await send(others)

    @contextlib.asynccontextmanager
    async def _stream(
        self, operation: operations.Operation, request: groups.Parameters
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of an endless answer; an error before its first byte is raised as what it is."""
        # deadline: until the answer begins, below; then silence is normal, or the caller's to judge.
        limits = aiohttp.ClientTimeout(total=None, connect=min(5.0, self._timeout_s))
        async with contextlib.AsyncExitStack() as stack:

            async def send(keys: signing.Credentials) -> aiohttp.ClientResponse:
                with _wrapped(operation.action):
                    async with asyncio.timeout(self._timeout_s):
                        answer = await stack.enter_async_context(self._send(operation, request, keys, limits))
                        if answer.status != 200:
                            answers.read(await _reply(answer), groups.Done, action=operation.action)
                return answer

            yield (await self._signed(send)).content

    @contextlib.asynccontextmanager
    async def _send(
        self,
        operation: operations.Operation,
        request: groups.Parameters,
        keys: signing.Credentials,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = url_of(self._url, operation.service)
        pairs = [("Action", operation.action), ("Version", operation.version)]
        pairs += wire.flatten(msgspec.to_builtins(request))
        body = wire.encode_pairs(pairs).encode()
        headers = [
            ("host", url.host_port_subcomponent or ""),
            ("content-type", "application/x-www-form-urlencoded"),
            # The signature's time has whole seconds: without this, two equal calls in one second would be
            # the same bytes, which is what a replay looks like.
            ("x-amz-nonce", secrets.token_hex(8)),
        ]
        headers += signing.sign(
            signing.Request(method="POST", path="/", headers=headers, body=body),
            keys,
            region=self._region,
            now=self._clock.now(),
            service=operation.service,
        )
        headers += [("accept", "application/json"), ("accept-encoding", "identity")]
        # Not signed, and nothing to a service that does not trace.
        if traceparent := observing.current().traceparent:
            headers.append(("traceparent", traceparent))
        async with self._active().post(
            url, data=body, headers=headers, timeout=limits, allow_redirects=False
        ) as answer:
            with sockets.cut_unless_read(answer):
                yield answer

    def _active(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use the client as a context manager"
        return self._session


class _Stream(aiohttp.ClientWebSocketResponse):
    async def close(self, *, code: int = aiohttp.WSCloseCode.OK, message: bytes = b"") -> bool:
        with sockets.cut_if_unanswered(self):
            return await super().close(code=code, message=message)


def _parse_endpoint(endpoint: str) -> yarl.URL:
    url = yarl.URL(endpoint if "://" in endpoint else f"//{endpoint}")
    if url.scheme not in {"", "http", "https"} or not url.host or url.path not in {"", "/"}:
        raise ValueError(f"cannot use the endpoint {endpoint!r}: write it as https://host:port")
    if not url.scheme:
        url = url.with_scheme("http" if _is_loopback(url.host) else "https")
    return url.with_path("/")


def url_of(url: yarl.URL, service: str) -> yarl.URL:
    """Kingsoft's hosts are named for the service, such as kci.api.ksyun.com; any other host answers for all,
    by the scope of the signature.
    """
    first, _, rest = (url.host or "").partition(".")
    if service == operations.SERVICE or first != operations.SERVICE or not rest.endswith("api.ksyun.com"):
        return url
    return url.with_host(f"{service}.{rest}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _refuse_redirect(
    _session: aiohttp.ClientSession, _context: SimpleNamespace, _params: aiohttp.TraceRequestRedirectParams
) -> None:
    raise errors.UnreachableError("cannot follow a redirect: a KCI endpoint never sends one")


@contextlib.contextmanager
def _wrapped(what: str) -> Iterator[None]:
    """Library errors become ours at this door; whether the request can have arrived is kept."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise errors.UnreachableError(
            f"cannot {what}: the endpoint does not answer", reached=False
        ) from error
    except TimeoutError as error:
        raise errors.UnreachableError(f"cannot {what}: no answer in time") from error
    # A line that is too long is none of aiohttp's client errors.
    except (aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError, ValueError) as error:
        raise errors.UnreachableError(f"cannot {what}: the connection broke") from error


async def _reply(answer: aiohttp.ClientResponse) -> answers.Reply:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise errors.UnreachableError(f"cannot take an answer of more than {_MAX_ANSWER_BYTES} bytes")
    return answers.Reply(
        status=answer.status, body=bytes(body), retry_after=answer.headers.get("Retry-After", "")
    )


def _read_change(line: bytes) -> groups.GroupChange:
    try:
        mark = msgspec.json.decode(line, type=groups.GroupLine)
        if mark.synced:
            return groups.GroupChange(synced=True)
        if mark.absent:
            return groups.GroupChange(group_id=mark.container_group_id, absent=True)
        group = msgspec.json.decode(line, type=groups.ContainerGroup)
    except msgspec.DecodeError as error:
        raise errors.UnreachableError("cannot understand a line of the watch") from error
    return groups.GroupChange(group_id=group.container_group_id, group=group)


def _handshake_error(status: int, because: str) -> errors.KciError:
    text = f"cannot open a stream: {because or f'HTTP {status}'}"
    if status in {401, 403}:
        return errors.RefusedError(text)
    if status == 404:
        return errors.NotFoundError(text)
    if status in {429, 503}:
        return errors.TryLaterError(text)
    return errors.InvalidError(text) if status < 500 else errors.UnreachableError(text)
