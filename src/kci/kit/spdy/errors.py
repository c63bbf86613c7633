"""What can be wrong with a SPDY peer."""

from __future__ import annotations


class SpdyError(Exception):
    """The peer broke the protocol or a limit; the connection is to be closed."""
