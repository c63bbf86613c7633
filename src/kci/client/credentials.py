"""Where a client's key pair comes from, asked anew for each request: temporary ones change."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from kci.contract import signing


class CredentialSource(Protocol):
    async def get(self) -> signing.Credentials:
        """The credentials to sign with now; MissingCredentialsError if there are none that are good."""
        ...

    async def replace(self, refused: signing.Credentials) -> signing.Credentials:
        """After the service called these expired: what there is after one look for others; the same again
        if there are none.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Static:
    """One key pair for good."""

    credentials: signing.Credentials

    async def get(self) -> signing.Credentials:
        return self.credentials

    async def replace(self, refused: signing.Credentials) -> signing.Credentials:
        del refused
        return self.credentials
