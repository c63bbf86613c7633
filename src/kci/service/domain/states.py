"""Two things about a group: what is wanted of it (Lifecycle), and what is seen of it (Status).

    WANTED ──► DELETING ──► DELETED
      └────────────────────────▲        (the machine had nothing left when the wish to delete came)

Deletion only goes forward. A status is what the API shows; once a group has ended it stays ended.
"""

from __future__ import annotations

import enum

import structlog

from kci.contract import ids

log = structlog.get_logger(__name__)


class IllegalChangeError(Exception):
    """A lifecycle was to go where it may not: a fault of ours."""


class Lifecycle(enum.StrEnum):
    WANTED = "wanted"
    DELETING = "deleting"
    # A tombstone: the group's address is free and its secrets are wiped; it still answers for its pod's UID.
    DELETED = "deleted"


class Status(enum.StrEnum):
    """The API's words (kci-reference 10); expressly not a pod's phase."""

    PENDING = "Pending"
    IMAGE_PULLING = "ImagePulling"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


_LEGAL = frozenset(
    (
        (Lifecycle.WANTED, Lifecycle.DELETING),
        (Lifecycle.WANTED, Lifecycle.DELETED),
        (Lifecycle.DELETING, Lifecycle.DELETED),
    )
)
_ENDED = frozenset((Status.SUCCEEDED, Status.FAILED))


def change(group_id: ids.GroupId, old: Lifecycle, new: Lifecycle, *, why: str) -> Lifecycle:
    """The one way from one lifecycle to another."""
    if (old, new) not in _LEGAL:
        raise IllegalChangeError(f"cannot take the group {group_id} from {old} to {new} ({why})")
    log.info("group changes", group=group_id, old=old.value, new=new.value, why=why)
    return new


def next_status(old: Status, seen: Status) -> Status:
    """The status after a report: what has ended stays ended."""
    return old if old in _ENDED else seen
