"""What can go wrong with a stack; each is a sentence for the user that names the remedy."""

from __future__ import annotations

from kci.kit import errors


class StackError(errors.UserError):
    """The stack cannot be started, stopped or read as asked."""


class RunningError(StackError):
    """Another supervisor holds the state folder."""


class PartFailedError(StackError):
    """A part did not come up. `log_tail` holds the last lines of its log."""

    def __init__(self, part: str, sentence: str, *, log_tail: tuple[str, ...] = ()) -> None:
        self.part = part
        self.log_tail = log_tail
        super().__init__(sentence)
