"""The port behind which groups run. Asynchronous, whole states, streams by handle: nothing here assumes
that a group runs on this host.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from kci.contract import ids
from kci.kit import errors
from kci.link import types as link


class EngineError(Exception):
    """The engine could not do what was asked; trying again may help."""


class UnreachableError(EngineError, ConnectionError):
    """The engine does not answer now."""


class NotFoundError(EngineError):
    """The engine itself says that it has no such group, container or log."""


class OtherStoreError(EngineError, errors.UserError):
    """What the engine runs belongs to another store: somebody must decide."""


class InvalidError(EngineError):
    """The engine says that this can never be done."""


class Stream(Protocol):
    """A running command, an attachment or a port's connection: v5.channel.k8s.io messages
    (kit/channels.py) both ways.
    """

    async def send(self, message: bytes) -> None:
        """Returns once the engine takes more."""
        ...

    async def receive(self) -> bytes | None:
        """The next message; None once the stream is over."""
        ...


class Engine(Protocol):
    """Where groups run."""

    def observe(self) -> contextlib.AbstractAsyncContextManager[AsyncIterator[link.GroupReport]]:
        """Connect. Entering it opens the line of reports: all now, then each change, for ever. Until
        `sync` was called inside it nothing else is accepted (UnreachableError); so an engine that was
        restarted first learns everything that is wanted.
        """
        ...

    async def sync(
        self,
        groups: Sequence[link.WantedGroup],
        *,
        security_groups: link.SecurityGroups | None = None,
        store_id: str = "",
    ) -> None:
        """The whole wanted set: the engine removes what is not in it. OtherStoreError if it serves another
        store; then nothing is done.
        """
        ...

    async def set_security_groups(self, security_groups: link.SecurityGroups) -> None:
        """All security groups as they are now: they hold for running groups at once."""
        ...

    async def ensure(self, group: link.WantedGroup) -> None:
        """Have the group run as said. May be repeated."""
        ...

    async def remove(self, group_id: ids.GroupId) -> None:
        """Have the group gone; a report says when it is, also of one of which nothing was ever there.
        May be repeated.
        """
        ...

    async def read_usage(self) -> link.Usages:
        """What groups use now, or did a second ago."""
        ...

    def open_log(
        self, group_id: ids.GroupId, container: str, options: link.LogOptions
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A container's log. Entering raises NotFoundError if there is none."""
        ...

    def open_exec(
        self, group_id: ids.GroupId, container: str, options: link.ExecOptions
    ) -> contextlib.AbstractAsyncContextManager[Stream]:
        """Start a command in a container. Entering raises NotFoundError if it does not run; leaving
        ends the command.
        """
        ...

    def open_attach(
        self, group_id: ids.GroupId, container: str, options: link.AttachOptions
    ) -> contextlib.AbstractAsyncContextManager[Stream]:
        """The streams of a container's own process. Entering raises NotFoundError if it does not run;
        leaving lets go of the streams, and the container runs on.
        """
        ...

    def open_port(self, group_id: ids.GroupId, number: int) -> contextlib.AbstractAsyncContextManager[Stream]:
        """A connection to a port of the group. Entering raises NotFoundError if the group does not run;
        that nobody listens is the stream's only message, a status.
        """
        ...
