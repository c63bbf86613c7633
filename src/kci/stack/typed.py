"""What a user types about a stack: with its state folder, and inside its network namespace. Pure.

Commands of ours go into the namespace by themselves; others act on the machine's own unless they are put
there.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator

from kci.stack import settings

_DEFAULTS = settings.Settings()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a stack is, by what it was started with."""

    asked: settings.Settings

    def kci(self, words: str) -> str:
        """A command of ours about this stack."""
        folder = self.asked.state_dir
        option = "" if folder == _DEFAULTS.state_dir else f" --state-dir {shlex.quote(folder)}"
        return f"kci {words}{option}"

    def inside(self, words: str) -> str:
        """A command that is to see, or change, what is in the stack's network namespace."""
        return f"nsenter --net=/run/netns/{self.asked.netns} {words}" if self.asked.netns else words

    @property
    def up(self) -> str:
        """`kci up` as it was started."""
        return " ".join(("kci up", *self._flags()))

    @property
    def again(self) -> str:
        return f"{self.kci('down')} && {self.up}"

    def _flags(self) -> Iterator[str]:
        for name in self.asked.__struct_fields__:
            value = getattr(self.asked, name)
            if value != getattr(_DEFAULTS, name):
                flag = f"--{name.replace('_', '-')}"
                yield flag if value is True else f"{flag} {shlex.quote(str(value))}"


# Of who names no stack.
USUAL = Place(_DEFAULTS)
