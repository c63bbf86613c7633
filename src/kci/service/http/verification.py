"""The one verifier. It stands in front of the router: what it has not verified reaches no route, and who
called is known only from here (reliability.md 3).
"""

from __future__ import annotations

import asyncio
import dataclasses

import aiohttp
from aiohttp import web

from kci.contract import errors, signing, wire
from kci.kit import clock, secret
from kci.service.app import accounts

_BODY_TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True)
class Verified:
    """A request as it was signed. Handlers act on this, never on a second reading of the URL."""

    identity: accounts.Identity
    region: str
    # Whose action it may name: the service of the signature's scope.
    service: str
    # How the caller reaches this service: scheme for WebSockets, and the Host header, which is signed.
    socket_base: str
    query: list[wire.Pair]
    body: bytes


class Verifier:
    """Checks requests against the accounts and the clock."""

    def __init__(self, known: accounts.Accounts, clock: clock.Clock, *, region: str, skew_s: int) -> None:
        self._accounts = known
        self._clock = clock
        self._region = region
        self._skew_s = skew_s

    async def verify(self, request: web.Request) -> Verified:
        """Raises ApiError. The body is read only once form and time are right."""
        path, _, query = request.raw_path.partition("?")
        head = signing.Request(
            method=request.method,
            path=path,
            query=wire.parse_pairs(query),
            headers=[(name, value) for name, value in request.headers.items()],
        )
        claim = signing.read_claim(head, region=self._region, now=self._clock.now(), skew_s=self._skew_s)
        whole = dataclasses.replace(head, body=await _read_body(request))
        account = await self._accounts.find(claim.access_key, secret.Secret(claim.security_token))
        signing.check_signature(whole, claim, account.secret_key if account else None)
        assert account is not None, "an unknown key has no signature that is right"
        if account.expires_at is not None and self._clock.now() >= account.expires_at:
            raise errors.ApiError(errors.SECURITY_TOKEN_EXPIRED)
        return Verified(
            identity=accounts.Identity(
                tenant_id=account.tenant_id,
                access_key=account.access_key,
                signature=claim.signature,
                signed_at=claim.timestamp,
                is_temporary=account.is_temporary,
            ),
            region=self._region,
            service=claim.scope.service,
            socket_base=f"{'wss' if request.secure else 'ws'}://{request.headers['Host']}",
            query=signing.parameters_of(head.query),
            body=whole.body,
        )


async def _read_body(request: web.Request) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot take a compressed body")
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise errors.ApiError(errors.REQUEST_TOO_LARGE) from error
    except (ConnectionError, aiohttp.ClientPayloadError) as error:
        raise errors.ApiError(
            errors.MALFORMED_REQUEST, "cannot read the body: the caller left before its end"
        ) from error
    except TimeoutError as error:
        raise errors.ApiError(errors.MALFORMED_REQUEST, "cannot wait longer for the body") from error
