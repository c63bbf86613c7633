"""What can go wrong with a source, named for what a runner can do."""

from __future__ import annotations


class SourceError(Exception):
    """The source could not do what was asked; trying again may help."""


class GoneError(SourceError):
    """The pod is not there (any more), or its name belongs to another UID by now."""


class RefusedError(SourceError):
    """The source understood and says no; the same again will be refused too."""
