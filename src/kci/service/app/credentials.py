"""Issuing temporary credentials to a tenant's permanent key."""

from __future__ import annotations

import datetime

from kci.contract import errors
from kci.kit import clock
from kci.service.app import accounts, replays


class CredentialService:
    """A call that was captured gives nobody a second pair."""

    def __init__(
        self, known: accounts.KnownAccounts, clock: clock.Clock, *, replays: replays.Replays
    ) -> None:
        self._known = known
        self._clock = clock
        self._replays = replays

    async def issue(self, caller: accounts.Identity, *, duration_s: int) -> accounts.Temporary:
        if caller.is_temporary:
            # Else they could be made to last for ever.
            raise errors.ApiError(
                errors.ACCESS_DENIED,
                "cannot issue credentials to temporary ones; sign with the permanent key",
            )
        await self._replays.refuse(caller)
        expires_at = self._clock.now() + datetime.timedelta(seconds=duration_s)
        return self._known.issue(caller.access_key, expires_at=expires_at)
