"""The error a person reads: one sentence that names the thing and the remedy."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can act on. Programs print its text, without a traceback, and exit with 1."""


class SettingsError(UserError):
    """Everything that is wrong in a program's flags and environment, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(
            "cannot start with these settings:\n" + "\n".join(f"  - {line}" for line in problems)
        )
