"""Who may call: an access key belongs to one tenant."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol

from kci.contract import ids
from kci.kit import secret

# The operator of a service that has no account database: one fixed tenant.
OPERATOR = ids.TenantId("00000000-0000-4000-8000-000000000001")


@dataclasses.dataclass(frozen=True)
class Account:
    """A tenant's access key. A key with a token is good only together with it."""

    tenant_id: ids.TenantId
    access_key: str
    secret_key: secret.Secret
    security_token: secret.Secret | None = None


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who signed a request: made by the verifier only."""

    tenant_id: ids.TenantId
    access_key: str
    # The request's own signature, by which a repetition of it is known.
    signature: str


class Accounts(Protocol):
    async def find(self, access_key: str) -> Account | None: ...


class ListedAccounts:
    """Accounts that were read at start."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts = {account.access_key: account for account in accounts}

    async def find(self, access_key: str) -> Account | None:
        return self._accounts.get(access_key)
