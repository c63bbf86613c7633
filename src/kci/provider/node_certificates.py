"""A certificate that the node asks the cluster for: got, kept, and renewed before its end, without a restart.

    kept in the state folder, good ──────────────────────────────┐
    asked for ─► approved (by the cluster, by us if we may,      ├─► in use ─► at 70 to 90 % of its life
          ▲          or by a person, who is told what to type) ─►┘              asked for again
          └── denied, failed, or gone: once more, later ◄─┘

What is approved here is what was sent from here, byte for byte. While the next one waits, the last one is
used until its end. When to renew: k8s.io/client-go v0.36 util/certificate (certificate_manager.go).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import pathlib
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog

from kci.kit import backoff as backoffs
from kci.kit import clock as clocks
from kci.kit import crashpoints, files, tasks
from kci.kube import access, errors, models, resources, signing_requests

log = structlog.get_logger(__name__)

REQUESTS = resources.CERTIFICATE_SIGNING_REQUESTS
# The cluster's own approver needs less.
PATIENCE_S = 5.0
ISSUE_PATIENCE_S = 30.0
# It may be in the way of a stop.
REMOVE_TIMEOUT_S = 2.0
LOOKS = backoffs.Backoff(initial_s=0.1, cap_s=5.0)
# What was refused may be granted when somebody has changed something.
REFUSED = backoffs.Backoff(initial_s=1.0, cap_s=60.0)
AWAY = backoffs.Backoff(initial_s=0.5, cap_s=10.0)
RENEW_AT = (0.7, 0.9)
# A machine that slept looks at its clock again.
_LONGEST_SLEEP_S = 600.0
_KEY_BEGINS = b"-----BEGIN PRIVATE KEY-----"

# Told in a sentence what is wrong and what helps, whenever that changes; empty when it is over.
Tell = Callable[[str], None]


class Api(Protocol):
    """What is needed of the cluster's client."""

    async def review_self(self) -> access.User: ...

    async def create(self, resource: resources.Resource[Any], body: object) -> Any: ...

    async def get(self, resource: resources.Resource[Any], name: str) -> Any: ...

    async def patch(
        self, resource: resources.Resource[Any], name: str, patch: object, *, subresource: str
    ) -> Any: ...

    async def delete(self, resource: resources.Resource[Any], name: str) -> None: ...


class _RefusedError(Exception):
    """The request comes to nothing; another may come to something."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """Where a request stands."""

    name: str
    signer: str
    outlook: signing_requests.Outlook
    # How long it has stood there.
    waited_s: float
    # Why we do not approve it ourselves: we may not, or something is wrong with it. Empty: that is not ours.
    why_not_ours: str


def trouble(waiting: Waiting) -> str:
    """What a person should know of a request that waits; empty while it is too early to tell. Pure."""
    match waiting.outlook:
        case signing_requests.Outlook.WAITS if waiting.why_not_ours or waiting.waited_s >= PATIENCE_S:
            why = f" ({waiting.why_not_ours})" if waiting.why_not_ours else ""
            return (
                f"the certificate of {waiting.signer} waits for approval{why}; "
                f"an administrator approves it with: kubectl certificate approve {waiting.name}"
            )
        case signing_requests.Outlook.APPROVED if waiting.waited_s >= ISSUE_PATIENCE_S:
            return (
                f"the certificate request {waiting.name} is approved, and nobody issues it: the cluster's "
                f"controller-manager needs --cluster-signing-cert-file for {waiting.signer}"
            )
        case _:
            return ""


async def _itself(api: Api) -> Api:
    return api


class Issuer:
    """Asks as `requester`, or another that `find_requester` makes of it each time; approves as `approver`, if
    there is one. None: somebody else approves.
    """

    def __init__(
        self,
        requester: Api,
        *,
        approver: Api | None,
        node_name: str,
        tell: Tell,
        find_requester: Callable[[Api], Awaitable[Api]] = _itself,
    ) -> None:
        self._requester = requester
        self._find_requester = find_requester
        self._approver = approver
        self._node_name = node_name
        self._tell = tell

    async def issue(self, request: signing_requests.Request) -> signing_requests.Pair:
        """As long as it takes."""
        failures = 0
        while True:
            try:
                pair = await self._ask(request)
            except (errors.KubeError, _RefusedError) as error:
                failures += 1
                is_away = isinstance(error, errors.TryLaterError | errors.UnreachableError)
                delay_s = (AWAY if is_away else REFUSED).delay_s(failures)
                log.info(
                    "no certificate yet, asking again",
                    signer=request.signer,
                    next_try_s=round(delay_s, 2),
                    error=str(error),
                )
                self._tell(f"cannot get a certificate of {request.signer}: {error}")
                await asyncio.sleep(delay_s)
                continue
            self._tell("")
            return pair

    async def _ask(self, request: signing_requests.Request) -> signing_requests.Pair:
        key = signing_requests.new_key()
        sent_pem = signing_requests.request_pem(key, request)
        name = f"kci-{self._node_name}-{request.what}-{secrets.token_hex(4)}"
        requester = await self._find_requester(self._requester)
        user = (await requester.review_self()).name
        crashpoints.reached("provider.request_certificate.before")
        seen = await requester.create(REQUESTS, signing_requests.to_object(name, request, sent_pem))
        crashpoints.reached("provider.request_certificate.after")
        log.info("certificate asked for", request=name, signer=request.signer, requester=user)
        try:
            why_not_ours = await self._approve(seen, sent_pem, request, user)
            seen = await self._wait(requester, seen, request, why_not_ours)
        finally:
            await self._remove(self._approver or self._requester, name)
        found = signing_requests.issued(seen, request, key)
        if isinstance(found, str):
            raise _RefusedError(f"{name}: {found}")
        log.info("certificate issued", request=name, signer=request.signer)
        return found

    async def _wait(
        self,
        requester: Api,
        seen: models.CertificateSigningRequest,
        request: signing_requests.Request,
        why_not_ours: str,
    ) -> models.CertificateSigningRequest:
        """Until it is issued."""
        loop, name, looks, failures = asyncio.get_running_loop(), seen.metadata.name, 0, 0
        since_s, before = loop.time(), signing_requests.Outlook.WAITS
        while True:
            outlook, why = signing_requests.outlook(seen)
            if outlook is signing_requests.Outlook.ISSUED:
                return seen
            if outlook is signing_requests.Outlook.REFUSED:
                raise _RefusedError(f"the request {name} is {why}")
            if outlook is not before:
                since_s, before, looks = loop.time(), outlook, 0
            told = trouble(Waiting(name, request.signer, outlook, loop.time() - since_s, why_not_ours))
            if told:
                self._tell(told)
            looks += 1
            await asyncio.sleep(LOOKS.delay_s(looks + failures))
            try:
                seen, failures = await requester.get(REQUESTS, name), 0
            except (errors.TryLaterError, errors.UnreachableError) as error:
                failures += 1
                log.debug("a certificate request was not read", request=name, error=str(error))

    async def _approve(
        self,
        seen: models.CertificateSigningRequest,
        sent_pem: bytes,
        request: signing_requests.Request,
        user: str,
    ) -> str:
        """Approve our own request; why not, if not."""
        if self._approver is None:
            return ""
        why = signing_requests.refusal(seen, sent_pem, request, user)
        if why:
            raise _RefusedError(f"the request {seen.metadata.name} must not be approved: {why}")
        patch = signing_requests.approval(
            "VirtualNode", "The node that asked for it has checked requester, names and addresses."
        )
        crashpoints.reached("provider.approve_certificate.before")
        try:
            _ = await self._approver.patch(REQUESTS, seen.metadata.name, patch, subresource="approval")
        except errors.ForbiddenError:
            return "this node may not approve it itself"
        except errors.ConflictError:
            # Somebody else said something in the meantime; what, is seen in a moment.
            return ""
        crashpoints.reached("provider.approve_certificate.after")
        return ""

    async def _remove(self, account: Api, name: str) -> None:
        """The cluster forgets requests by itself, after an hour or a day; a node may not remove its own."""
        with contextlib.suppress(errors.KubeError, TimeoutError):
            async with asyncio.timeout(REMOVE_TIMEOUT_S):
                await self._delete(account, name)

    async def _delete(self, account: Api, name: str) -> None:
        crashpoints.reached("provider.remove_request.before")
        await account.delete(REQUESTS, name)
        crashpoints.reached("provider.remove_request.after")


class Keeper:
    """One certificate of the node. `obtain`, then `run` for ever; `use` is told of each one."""

    def __init__(
        self,
        request: signing_requests.Request,
        issuer: Issuer,
        *,
        file: pathlib.Path | None,
        use: Callable[[signing_requests.Pair], Awaitable[None]],
        is_good: Callable[[signing_requests.Pair], Awaitable[bool]] | None = None,
        clock: clocks.Clock | None = None,
    ) -> None:
        self._request = request
        self._issuer = issuer
        self._file = file
        self._use = use
        self._is_good = is_good
        self._clock = clock or clocks.SystemClock()
        self._renew_at: datetime.datetime | None = None

    async def obtain(self) -> None:
        """Once there is one in use."""
        kept = await self._find_kept()
        if kept is None:
            await self._renew()
        else:
            log.info("certificate kept", signer=self._request.signer, file=str(self._file))
            await self._take(kept, since=None)

    async def run(self) -> None:
        """Renew it in time, for ever. Before `obtain`, that comes first."""
        if self._renew_at is None:
            await self.obtain()
        while True:
            assert self._renew_at is not None
            left_s = (self._renew_at - self._clock.now()).total_seconds()
            if left_s > 0:
                await asyncio.sleep(min(left_s, _LONGEST_SLEEP_S))
            else:
                await self._renew()

    async def _renew(self) -> None:
        pair = await self._issuer.issue(self._request)
        await self._take(pair, since=self._clock.now())
        if self._file is None:
            return
        try:
            await tasks.in_thread(files.write_atomic, self._file, pair.certificate_pem + pair.key_pem)
        except OSError as error:
            log.warning("a certificate is not kept", file=str(self._file), error=error.strerror)

    async def _take(self, pair: signing_requests.Pair, *, since: datetime.datetime | None) -> None:
        share = random.uniform(*RENEW_AT)  # noqa: S311  (spreads load, guards nothing)
        self._renew_at = signing_requests.renewal(pair, since=since, share=share)
        log.info("certificate in use", signer=self._request.signer, renewal=clocks.to_rfc3339(self._renew_at))
        await self._use(pair)

    async def _find_kept(self) -> signing_requests.Pair | None:
        if self._file is None:
            return None
        try:
            kept = _split(await tasks.in_thread(self._file.read_bytes))
        except OSError:
            return None
        if not signing_requests.is_for(kept, self._request):
            return None
        if signing_requests.renewal(kept, since=None, share=RENEW_AT[0]) <= self._clock.now():
            return None
        return kept if self._is_good is None or await self._is_good(kept) else None


def _split(content: bytes) -> signing_requests.Pair:
    certificate, begin, rest = content.partition(_KEY_BEGINS)
    return signing_requests.Pair(certificate, begin + rest)
