"""HTTP to one API server: connections, TLS, time limits, size limits, and every failure made a KubeError.

Knows nothing of resources; `kube/client.py` stands on it. Redirects are never followed (they could carry
the credentials elsewhere), proxies of the environment are not used, and a client key never lies on a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import types
import urllib.parse
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Self

import aiohttp
import yarl

from kci.kit import observing, sockets, tasks
from kci.kube import config as configs
from kci.kube import errors

CONNECT_TIMEOUT_S = 10.0
# Bookmarks come about once a minute, but not from every server while nothing moves: a watch that is silent
# for longer may be dead or idle, and is begun anew to find out.
WATCH_STALL_S = 75.0
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_EVENT_BYTES = 32 * 1024 * 1024
# The API server closes idle connections after 90 s: ours go earlier, so that a request does not meet
# a connection that is being closed.
KEEPALIVE_S = 60.0
TOKEN_MAX_AGE_S = 60.0


class _Pool:
    """The connections of one identity. Retired, it closes when the last call on it has ended: the API server
    knows a caller by his connection, and its watches end by themselves within minutes.
    """

    def __init__(
        self, config: configs.ClusterConfig, *, user_agent: str, timeout: aiohttp.ClientTimeout
    ) -> None:
        self._opened = sockets.Opened()
        # No limit on connections: a watch holds one, and calls are limited by who makes them.
        connector = aiohttp.TCPConnector(
            ssl=tls_context(config),
            limit=0,
            keepalive_timeout=KEEPALIVE_S,
            ttl_dns_cache=30,
            socket_factory=self._opened,
        )
        self.session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent, "Accept": "application/json"},
            timeout=timeout,
        )
        self._calls = 0
        self._is_retired = False

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        self._is_retired = True
        await self._close_if_done()

    async def close(self) -> None:
        await self.session.close()
        await self._opened.end()

    async def _close_if_done(self) -> None:
        if self._is_retired and not self._calls:
            await self.close()


class Transport:
    """An open connection pool; an async context manager."""

    def __init__(
        self,
        config: configs.ClusterConfig,
        *,
        user_agent: str,
        timeout_s: float,
        stall_s: float,
        on_call: observing.OnCall = observing.no_call,
    ) -> None:
        self.config = config
        self._on_call = on_call
        self._user_agent = user_agent
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._watch_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=stall_s
        )
        self._pool: _Pool | None = None
        # Of former identities, with calls on them.
        self._retired: weakref.WeakSet[_Pool] = weakref.WeakSet()
        self._token = config.token
        self._token_read_at = 0.0

    async def __aenter__(self) -> Self:
        self._pool = self._open_pool()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        for one in (*self._retired, *([pool] if pool is not None else [])):
            await one.close()

    async def become(self, config: configs.ClusterConfig) -> None:
        """Another identity from the next call on; KubeconfigError, and all as it was, if it is none."""
        former, self.config = self.config, config
        try:
            pool = self._open_pool()
        except errors.KubeconfigError:
            self.config = former
            raise
        self._token, self._token_read_at = config.token, 0.0
        before, self._pool = self._pool, pool
        if before is not None:
            self._retired.add(before)
            await before.retire()

    def _open_pool(self) -> _Pool:
        return _Pool(self.config, user_agent=self._user_agent, timeout=self._timeout)

    async def call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """One request; the body of the success answer. Raises KubeError."""
        headers = {"Content-Type": content_type} if body is not None else {}
        where: observing.Attributes = {"http.request.method": method, "url.path": path}
        with (
            observing.told(self._on_call, method),
            observing.step(method, kind=observing.Kind.CLIENT, attributes=where),
        ):
            async with self._open(what, method, path, query, headers, body, self._timeout) as response:
                return await _read_whole(what, response)

    async def lines(
        self, what: str, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """A GET whose answer has no end: its lines. Raises SilentError if none comes for too long."""
        async with self._open(what, "GET", path, query, {}, None, self._watch_timeout) as response:
            rest = bytearray()
            async for chunk in _chunks(what, response):
                rest += chunk
                # The bytes before this chunk hold no line end: only search where one can be.
                if b"\n" not in chunk:
                    if len(rest) > MAX_EVENT_BYTES:
                        raise errors.UnreachableError(
                            f"{what}: an event is larger than {MAX_EVENT_BYTES} bytes"
                        )
                    continue
                *whole, tail = rest.split(b"\n")
                rest = tail
                for line in whole:
                    if line:
                        yield bytes(line)

    @contextlib.asynccontextmanager
    async def _open(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: dict[str, str],
        body: bytes | None,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        # First, as it may wait: whoever has a pool uses it at once.
        token = await self._current_token()
        pool, config = self._pool, self.config
        if pool is None:
            raise RuntimeError("the client is not open: use it as `async with`")
        url = config.server + path
        if query:
            url += "?" + urllib.parse.urlencode(query)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with (
                pool.used(),
                pool.session.request(
                    method,
                    yarl.URL(url, encoded=True),
                    data=body,
                    headers=headers,
                    timeout=limits,
                    allow_redirects=False,
                    server_hostname=config.tls_server_name or None,
                ) as response,
            ):
                if response.status >= 300:
                    raise errors.from_answer(
                        what,
                        response.status,
                        await _read_whole(what, response),
                        retry_after=response.headers.get("Retry-After", ""),
                    )
                with sockets.cut_unless_read(response):
                    yield response
        except TimeoutError as error:
            raise errors.UnreachableError(f"{what}: no answer of {config.server} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.UnreachableError(f"{what}: cannot reach {config.server}: {error}") from error

    async def _current_token(self) -> str:
        if self.config.token_file is not None:
            now = asyncio.get_running_loop().time()
            if not self._token_read_at or now - self._token_read_at > TOKEN_MAX_AGE_S:
                self._token = await tasks.in_thread(configs.read_token, self.config.token_file)
                self._token_read_at = now
        return self._token.reveal() if self._token is not None else ""


async def _chunks(what: str, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError as error:
        raise errors.SilentError(f"{what}: the server was silent for too long") from error


async def _read_whole(what: str, response: aiohttp.ClientResponse) -> bytes:
    """The body, at most MAX_BODY_BYTES of it after decompression."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise errors.UnreachableError(f"{what}: the answer is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def tls_context(config: configs.ClusterConfig) -> ssl.SSLContext:
    """TLS as the config says; raises KubeconfigError if its certificates or key are none."""
    try:
        context = ssl.create_default_context(cadata=config.ca_pem or None)
        if config.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.client_certificate_pem:
            load_identity(context, config.client_certificate_pem, config.client_key_pem.reveal())
    except (ssl.SSLError, ValueError) as error:
        raise errors.KubeconfigError(
            f"cannot use the certificates of the kubeconfig for {config.server}: {error}"
        ) from error
    return context


def load_identity(context: ssl.SSLContext, certificate_pem: str, key_pem: str) -> None:
    """Python loads keys from files only: give it one that lives in memory and closes with us."""
    descriptor = os.memfd_create("kci-client-identity", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, not a path)
        file.write(f"{certificate_pem}\n{key_pem}\n".encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
