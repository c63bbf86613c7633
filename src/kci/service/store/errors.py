"""What the store says when it cannot serve."""

from __future__ import annotations

from kci.kit import errors


class StoreError(Exception):
    """The database failed at work: disk full, a broken read. Nothing of the transaction happened."""


class StoreBusyError(StoreError):
    """Too much waits for the database already."""


class UnusableStoreError(errors.UserError):
    """The database cannot be used at all: damaged, of a newer version, or sealed with another key."""
