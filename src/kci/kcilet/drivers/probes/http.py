"""A GET of a probe, as pkg/probe/http of Kubernetes 1.36 does it. Differs: an answer whose body does not come
in time is a failure, and only HTTP/1.1 is spoken.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

import aiohttp
import multidict
import yarl

from kci.kcilet import ports
from kci.kcilet.drivers.probes import dialling

_USER_AGENT = "kube-probe/1.36"
_BODY_BYTES = 10 << 10
_REDIRECTS = 10
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
_LAST_SUCCESS = 399


class Getter:
    def __init__(self, networks: dialling.Networks) -> None:
        self._networks = networks
        # Who answers is known by its address; that it answers is all that is asked.
        self._any_certificate = ssl.create_default_context()
        self._any_certificate.check_hostname = False
        self._any_certificate.verify_mode = ssl.CERT_NONE

    async def get(self, check: ports.HttpCheck) -> ports.CheckResult:
        """Without a time limit of its own."""
        make = await self._networks.factory(check.sandbox_id)

        def make_socket(info: tuple[Any, ...]) -> socket.socket:
            return make(info[0])

        # One connection for each check: that one can be had is part of what is asked.
        connector = aiohttp.TCPConnector(
            ssl=self._any_certificate, force_close=True, use_dns_cache=False, socket_factory=make_socket
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # deadline: the whole check's, in driver.py.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        ) as session:
            return await _follow(session, url_of(check), _headers(check))


def url_of(check: ports.HttpCheck) -> yarl.URL:
    where = dialling.place(check.host, check.port)
    return yarl.URL(f"{check.scheme}://{where}{check.target}", encoded=True)


async def _follow(
    session: aiohttp.ClientSession, first: yarl.URL, headers: multidict.CIMultiDict[str]
) -> ports.CheckResult:
    """Redirects are followed on the same host alone."""
    url = first
    for _ in range(_REDIRECTS):
        try:
            async with session.get(url, headers=headers, allow_redirects=False) as answer:
                location = answer.headers.get("Location", "")
                body = await _beginning(answer)
        except aiohttp.ClientConnectorError as error:
            reason = dialling.words(error.os_error, url.host or "", url.port or 0)
            return _failure(first, reason)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _failure(first, str(error) or type(error).__name__)
        if not 200 <= answer.status <= _LAST_SUCCESS:
            # Not the body: it may hold what is not for everybody who reads events.
            return ports.CheckResult(False, f"HTTP probe failed with statuscode: {answer.status}")
        if answer.status < 300:
            return ports.CheckResult(True)
        following = _following(url, location)
        if answer.status not in _REDIRECTING or following is None or following.host != first.host:
            return ports.CheckResult(True, f"Probe terminated redirects, Response body: {body}")
        if following.absolute and yarl.URL(location).absolute:
            # A name that was given for the first place says nothing of another.
            headers.popall("Host", None)
        url = following
    return _failure(first, f"stopped after {_REDIRECTS} redirects")


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    body = b""
    while len(body) < _BODY_BYTES and (part := await answer.content.read(_BODY_BYTES - len(body))):
        body += part
    return body.decode(errors="replace")


def _following(url: yarl.URL, location: str) -> yarl.URL | None:
    if not location:
        return None
    try:
        return url.join(yarl.URL(location))
    except ValueError:
        return None


def _headers(check: ports.HttpCheck) -> multidict.CIMultiDict[str]:
    headers = multidict.CIMultiDict(check.headers)
    _ = headers.setdefault("User-Agent", _USER_AGENT)
    if headers.setdefault("Accept", "*/*") == "":
        # How one says that none is to be sent.
        headers.popall("Accept")
    return headers


def _failure(url: yarl.URL, reason: str) -> ports.CheckResult:
    return ports.CheckResult(False, f'Get "{url}": {reason}')
