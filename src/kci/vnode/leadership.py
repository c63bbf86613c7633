"""Which copy of a virtual node may act, decided from the node's Lease and from our own clock. Pure.

Two copies can live at once: in a rolling update, or when one that was paused or cut off wakes up. Only the
holder of the Lease acts. What stays true:

- A copy acts until ACT_S after it *began* its last renewal that succeeded. Another takes over only after it
  saw the Lease unchanged for DURATION_S by its own clock, which begins later. No clocks are compared.
- Every write of the Lease names the version that it changes, so of two takers one fails.
- Each take-over raises the epoch (`leaseTransitions`). The service refuses an epoch older than one it saw,
  which stops what a former holder had sent before it was paused.

    follower ──released, ours, or unchanged for its duration──► holder
       ▲                                                          │
       └── another holds it, or the service saw a later epoch ◄───┘

A restart is the same copy: it takes over at once. Idea: client-go tools/leaderelection (v0.36); differs: the
epoch is raised by the same identity too, and two programs that share an identity find out (`has_namesake`).
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

DURATION_S = 40
# A holder that cannot renew stops this long before others start: what it sent has time to arrive.
MARGIN_S = 10.0
ACT_S = DURATION_S - MARGIN_S
RENEW_S = 10.0
# How often a follower looks at the Lease.
FOLLOW_S = 2.0
# The largest leap over epochs that a service may know from a Lease that was deleted.
_MOST_REFUSALS = 20


class NotLeaderError(Exception):
    """Another copy of this node may be acting, so nothing was done. Whoever holds the Lease does it."""


class Right(Protocol):
    """The right to act for the node, asked for right before each effect."""

    def require(self) -> int | None:
        """The epoch to act under, None where there is none; NotLeaderError if this copy may not act."""
        ...

    def refused(self, epoch: int) -> None:
        """The service has seen a later epoch than this one."""
        ...


class Always:
    """The right of a node without a Lease: there must be no other copy of it."""

    def require(self) -> int | None:
        return None

    def refused(self, epoch: int) -> None:
        """There is no epoch."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the Lease says. No holder: it was released."""

    holder: str
    epoch: int
    renewed_at: str
    version: str
    duration_s: float = DURATION_S


@dataclasses.dataclass(frozen=True)
class Standing:
    """What this copy knows."""

    identity: str
    # The Lease as last seen, and since when it has looked like that.
    claim: Claim | None = None
    since_s: float = 0.0
    # The epoch that this copy holds; 0 if none.
    epoch: int = 0
    # When the last renewal that succeeded was begun.
    renewed_s: float = 0.0
    highest_epoch: int = 0
    refusals: int = 0
    # Another program has our identity: a Lease of that name is not ours only for its name.
    has_namesake: bool = False


@dataclasses.dataclass(frozen=True)
class TakeOver:
    """Write the Lease with a new epoch, if it still has this version; with none, create it."""

    epoch: int
    version: str


@dataclasses.dataclass(frozen=True)
class Renew:
    version: str


@dataclasses.dataclass(frozen=True)
class Wait:
    """Another copy holds it: look again then."""

    until_s: float


Step = TakeOver | Renew | Wait


def decide(standing: Standing, now_s: float) -> Step:
    """What to do with the Lease as it was last seen."""
    claim = standing.claim
    if claim is None:
        return TakeOver(_next_epoch(standing), "")
    if standing.epoch:
        return Renew(claim.version)
    is_ours = claim.holder == standing.identity and not standing.has_namesake
    ends_s = standing.since_s + claim.duration_s
    if not claim.holder or is_ours or now_s >= ends_s:
        return TakeOver(_next_epoch(standing), claim.version)
    return Wait(min(ends_s, now_s + FOLLOW_S))


def may_act(standing: Standing, now_s: float) -> bool:
    return standing.epoch > 0 and now_s < standing.renewed_s + ACT_S


def see(standing: Standing, claim: Claim | None, now_s: float) -> Standing:
    """Take in the Lease as it was read; `now_s` is after the answer came."""
    is_deleted = claim is None
    if claim is None and standing.claim is not None:
        # Its holder does not know of the deletion before it renews: what it claimed lasts until then.
        claim = dataclasses.replace(standing.claim, version="")
    found = dataclasses.replace(standing, claim=claim)
    if claim != standing.claim:
        found = dataclasses.replace(found, since_s=now_s)
    if not standing.epoch or claim is None or is_deleted:
        return dataclasses.replace(found, epoch=0)
    if (claim.holder, claim.epoch) == (standing.identity, standing.epoch):
        return found
    return dataclasses.replace(found, epoch=0, has_namesake=claim.holder == standing.identity)


def wrote(standing: Standing, claim: Claim, *, began_s: float, now_s: float) -> Standing:
    """Our write came through: `claim` is the Lease as it is since."""
    return dataclasses.replace(
        standing,
        claim=claim,
        since_s=now_s,
        epoch=claim.epoch,
        renewed_s=began_s,
        highest_epoch=max(standing.highest_epoch, claim.epoch),
    )


def was_refused(standing: Standing, epoch: int) -> Standing:
    """The service knows a later epoch, of a Lease that was deleted since: leap forward, farther each time."""
    if epoch != standing.epoch:
        return standing
    return dataclasses.replace(standing, epoch=0, refusals=standing.refusals + 1)


def released(standing: Standing) -> Standing:
    """Act no more, whatever comes of writing so: this copy stops."""
    return dataclasses.replace(standing, epoch=0)


def _next_epoch(standing: Standing) -> int:
    seen = standing.claim.epoch if standing.claim is not None else 0
    return max(seen, standing.highest_epoch) + (1 << min(standing.refusals, _MOST_REFUSALS))
