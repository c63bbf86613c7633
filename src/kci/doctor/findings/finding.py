"""What the doctor says of one thing, and what comes of all of it. Pure."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable


class Level(enum.StrEnum):
    WELL = "ok"
    # Something may come to be wrong, or is wrong for some pods: it fails nothing.
    WARNING = "warning"
    WRONG = "wrong"
    UNSEEN = "not looked at"


@dataclasses.dataclass(frozen=True)
class Finding:
    """`remedy` is what to type or do; of what is well or was not looked at there is none."""

    level: Level
    text: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """All findings of one question."""

    area: str
    name: str
    findings: tuple[Finding, ...]


class NotAtHandError(Exception):
    """A question cannot be asked here; the text goes on after "because"."""


def well(text: str) -> Finding:
    return Finding(Level.WELL, text)


def warning(text: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, text, remedy)


def wrong(text: str, remedy: str) -> Finding:
    return Finding(Level.WRONG, text, remedy)


def unseen(why: str) -> Finding:
    return Finding(Level.UNSEEN, f"because {why}")


def of_sentence(level: Level, sentence: str, *, otherwise: str) -> Finding:
    """Of an error's text, whose remedy stands behind a semicolon, or else is this one."""
    text, _, remedy = sentence.partition("; ")
    return Finding(level, text, remedy or otherwise)


def exit_code(answers: Iterable[Answer]) -> int:
    """1 if something must be done; warnings are none of it."""
    return int(any(one.level is Level.WRONG for answer in answers for one in answer.findings))
