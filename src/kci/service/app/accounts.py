"""Who may call: an access key belongs to one tenant.

A permanent key is listed. A temporary one is kept nowhere: all that is known of it is sealed into its
security token, which comes back with each call. It is good for as long as the token says, and only while the
key that asked for it is listed.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import secrets
from collections.abc import Iterable
from typing import Protocol

import msgspec

from kci.contract import errors, ids, signing
from kci.kit import secret
from kci.service.store import sealing

# The operator of a service that has no account database: one fixed tenant.
OPERATOR = ids.TenantId("00000000-0000-4000-8000-000000000001")


# By this a temporary key is known from a listed one before its token is looked at.
TEMPORARY_PREFIX = "AKTP"
_OWNER = "security token"


@dataclasses.dataclass(frozen=True)
class Account:
    """A tenant's access key."""

    tenant_id: ids.TenantId
    access_key: str
    secret_key: secret.Secret
    # None: as long as it is listed.
    expires_at: datetime.datetime | None = None

    @property
    def is_temporary(self) -> bool:
        return self.expires_at is not None


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who signed a request: made by the verifier only."""

    tenant_id: ids.TenantId
    access_key: str
    # The request's own signature, by which a repetition of it is known.
    signature: str
    # When it says that it was signed.
    signed_at: datetime.datetime
    is_temporary: bool = False


@dataclasses.dataclass(frozen=True)
class Temporary:
    """What was issued: shown once, to who asked for it."""

    credentials: signing.Credentials
    expires_at: datetime.datetime


class Accounts(Protocol):
    async def find(self, access_key: str, security_token: secret.Secret) -> Account | None:
        """ApiError for a token that does not belong to a temporary key; a listed key needs none."""


class KnownAccounts:
    """Accounts that were read at start, and what was issued to them."""

    def __init__(self, accounts: Iterable[Account], sealer: sealing.Sealer) -> None:
        self._accounts = {account.access_key: account for account in accounts}
        self._sealer = sealer

    async def find(self, access_key: str, security_token: secret.Secret) -> Account | None:
        if access_key in self._accounts or not access_key.startswith(TEMPORARY_PREFIX):
            return self._accounts.get(access_key)
        content = self._open(security_token)
        parent = self._accounts.get(content.parent)
        if parent is None or content.access_key != access_key:
            raise errors.ApiError(errors.SECURITY_TOKEN_INVALID)
        return Account(
            tenant_id=parent.tenant_id,
            access_key=access_key,
            secret_key=secret.Secret(content.secret_key),
            expires_at=datetime.datetime.fromtimestamp(content.expires_at_s, datetime.UTC),
        )

    def issue(self, parent_key: str, *, expires_at: datetime.datetime) -> Temporary:
        """Temporary credentials of a listed key, with all of its rights but this one."""
        access_key, secret_key = TEMPORARY_PREFIX + secrets.token_hex(10), secrets.token_urlsafe(30)
        content = _TokenContent(access_key, secret_key, parent_key, expires_at.timestamp())
        sealed = self._sealer.seal(secret.Secret(msgspec.json.encode(content).decode()), owner=_OWNER)
        token = secret.Secret(base64.urlsafe_b64encode(sealed).decode())
        return Temporary(signing.Credentials(access_key, secret.Secret(secret_key), token), expires_at)

    def _open(self, token: secret.Secret) -> _TokenContent:
        try:
            sealed = base64.urlsafe_b64decode(token.reveal())
            content = self._sealer.open(sealed, owner=_OWNER)
            return msgspec.json.decode(content.reveal(), type=_TokenContent)
        except (binascii.Error, ValueError, sealing.SealError, msgspec.DecodeError):
            raise errors.ApiError(errors.SECURITY_TOKEN_INVALID) from None


class _TokenContent(msgspec.Struct, frozen=True, array_like=True):
    access_key: str
    secret_key: str
    parent: str
    expires_at_s: float
