"""Signed calls that may have their effect once only: their signatures are kept in the store, past restarts.

A signature is remembered as long as the verifier would take its request again, and as many of a tenant as
`_MAX_OF_TENANT`; at that bound calls are refused, save for those that take something away.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TypeVar

from kci.contract import errors
from kci.kit import clock, crashpoints
from kci.service.app import accounts
from kci.service.store import database
from kci.service.store import signatures as table

T = TypeVar("T")

# A signature for each connection through a forwarded port: 160 a second for the ten minutes that one is kept,
# in some 40 MB of disk.
_MAX_OF_TENANT = 100_000


class Replays:
    """`window_s` is how far a request's time may be from the clock."""

    def __init__(self, store: database.Database, clock: clock.Clock, *, window_s: float) -> None:
        self._store = store
        self._clock = clock
        self._window = datetime.timedelta(seconds=window_s)

    async def refuse(self, identity: accounts.Identity) -> None:
        """Raises ApiError if the same signed call came before. Durable on return."""
        await self.run_once(identity, lambda _: None)

    async def run_once(
        self,
        identity: accounts.Identity,
        work: Callable[[database.Session], T],
        *,
        is_removal: bool = False,
    ) -> T:
        """Run work in one transaction, as the store does. ApiError if it was run for the same signed call
        before; where the work itself fails, its call was not used.
        """

        def once(session: database.Session) -> T:
            if self.is_known(session, identity):
                raise errors.ApiError(errors.REPLAYED_REQUEST)
            if not self.remember(session, identity) and not is_removal:
                raise errors.ApiError(
                    errors.TOO_MANY_REQUESTS, "cannot take more calls of this kind now", retry_after_s=30
                )
            return work(session)

        return await self._store.run(once)

    def is_known(self, session: database.Session, identity: accounts.Identity) -> bool:
        """Whether `remember` was called for the same signed call."""
        return table.is_known(session, identity.tenant_id, identity.signature)

    def remember(self, session: database.Session, identity: accounts.Identity) -> bool:
        """False if the tenant has too many already."""
        now = self._clock.now()
        crashpoints.reached("service.remember_signature.before")
        table.remove_ended(session, now=now)
        room = table.count(session, identity.tenant_id) < _MAX_OF_TENANT
        if room:
            # Good from `window` before the clock to `window` after it: remembered for both.
            table.insert_signature(
                session, identity.tenant_id, identity.signature, good_until=now + 2 * self._window
            )
        crashpoints.reached("service.remember_signature.after")
        return room
