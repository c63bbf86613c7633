"""Tokens of pods' service accounts: kept in memory only, renewed before they are old.

A token is due after 80 % of its life or after a day, some seconds earlier by chance, as with a kubelet
(pkg/kubelet/token/token_manager.go, 1.36). One that cannot be renewed is used until it expires, and asked
for again every half minute. Its age is by the wall clock or the loop's, whichever says more: neither a
clock that was put back nor a machine that slept may let it expire unseen.

After a restart each is asked for anew. To take it back from the pod's volume would mean to trust what
it says of itself, and it does not say for how long it was meant: the API server may sign longer than that.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable, Collection

import structlog

from kci.kit import clock
from kci.kit import secret as secrets
from kci.kube import access
from kci.source import errors

log = structlog.get_logger(__name__)
LIFE_SHARE = 0.8
LONGEST_USE_S = 24 * 3600.0
JITTER_S = 10.0
RETRY_S = 30.0
# Calls at once: a burst of pods must not be one of signatures, which are the API server's dearest work.
CALLS = 8


@dataclasses.dataclass(frozen=True)
class Key:
    pod_uid: str
    audience: str
    expiration_s: int


@dataclasses.dataclass
class _Kept:
    token: secrets.Secret
    life_s: float
    issued_wall_s: float
    issued_loop_s: float
    # The age at which the next one is asked for.
    due_s: float


class Tokens:
    def __init__(self, clock: clock.Clock) -> None:
        self._clock = clock
        self._kept: dict[Key, _Kept] = {}
        self._locks: dict[Key, asyncio.Lock] = {}
        self._gate = asyncio.Semaphore(CALLS)

    async def get(self, key: Key, ask: Callable[[], Awaitable[access.IssuedToken]]) -> secrets.Secret:
        """The kept token or, if it is due, a new one. Raises what `ask` raises (SourceError) only if there is
        none that is still good.
        """
        async with self._locks.setdefault(key, asyncio.Lock()):
            kept = self._kept.get(key)
            if kept is not None and not self._is_due(kept):
                return kept.token
            try:
                async with self._gate:
                    issued = await ask()
            except errors.SourceError as error:
                if kept is None or self._age_s(kept) >= kept.life_s:
                    raise
                kept.due_s = self._age_s(kept) + RETRY_S
                log.warning(
                    "token not renewed, keeping the old one",
                    uid=key.pod_uid,
                    next_try_s=RETRY_S,
                    error=str(error),
                )
                return kept.token
            if kept is not None:
                log.info("token renewed", uid=key.pod_uid)
            self._kept[key] = self._keep(issued)
            return issued.token

    def due(self) -> set[str]:
        """UIDs of pods of which a token is due."""
        return {key.pod_uid for key, kept in self._kept.items() if self._is_due(kept)}

    def retain(self, pod_uids: Collection[str]) -> None:
        """Forget the tokens of all other pods."""
        for key in [key for key in self._locks if key.pod_uid not in pod_uids]:
            if not self._locks[key].locked():
                del self._locks[key]
                _ = self._kept.pop(key, None)

    def _keep(self, issued: access.IssuedToken) -> _Kept:
        due_s = min(issued.life_s * LIFE_SHARE, LONGEST_USE_S)
        return _Kept(
            issued.token,
            issued.life_s,
            issued_wall_s=self._clock.now().timestamp(),
            issued_loop_s=asyncio.get_running_loop().time(),
            # No secret: only so that not all tokens of a burst are due at once.
            due_s=due_s - random.uniform(0, JITTER_S),  # noqa: S311
        )

    def _is_due(self, kept: _Kept) -> bool:
        return self._age_s(kept) >= kept.due_s

    def _age_s(self, kept: _Kept) -> float:
        wall_s = self._clock.now().timestamp() - kept.issued_wall_s
        return max(wall_s, asyncio.get_running_loop().time() - kept.issued_loop_s)
