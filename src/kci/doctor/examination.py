"""Asks all questions at once, each with its own time limit: one that hangs or fails is a finding itself."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from kci.doctor.findings import finding
from kci.kit import errors, tasks

A = TypeVar("A")
T = TypeVar("T")
LIMIT_S = 10.0
# What a question may answer with.
Found: TypeAlias = finding.Finding | Sequence[finding.Finding]


@dataclasses.dataclass(frozen=True)
class Question:
    """`ask` may raise NotAtHandError: then it was not looked at, because of its text."""

    area: str
    name: str
    ask: Callable[[], Awaitable[Found]]
    limit_s: float = LIMIT_S


def of(
    area: str,
    asked: A | None,
    what: Mapping[str, Callable[[A], Awaitable[Found]]],
    *,
    why: str,
    limit_s: float = LIMIT_S,
) -> list[Question]:
    """The questions of an area, asked of `asked`; without it they are not, and each says `why`."""

    async def refuse() -> Found:
        raise finding.NotAtHandError(why)

    return [
        Question(area, name, refuse if asked is None else functools.partial(ask, asked), limit_s)
        for name, ask in what.items()
    ]


async def examine(questions: Sequence[Question]) -> list[finding.Answer]:
    """In the questions' order."""
    return await tasks.wait_all([_answer(one) for one in questions], name="question")


async def _answer(question: Question) -> finding.Answer:
    try:
        async with asyncio.timeout(question.limit_s):
            found = await question.ask()
    except finding.NotAtHandError as error:
        found = finding.unseen(str(error))
    except TimeoutError:
        found = finding.wrong(
            f"it is not known after {question.limit_s:g} s: what was asked hangs",
            "look for a disk, network or program that does not answer, and ask again",
        )
    except errors.UserError as error:
        found = finding.of_sentence(finding.Level.WRONG, str(error), otherwise="mend that, and ask again")
    except Exception as error:  # noqa: BLE001  (whatever it is, the others are answered)
        found = finding.wrong(
            f"it cannot be told: {str(error) or type(error).__name__}", "mend that, and ask again"
        )
    findings = (found,) if isinstance(found, finding.Finding) else tuple(found)
    return finding.Answer(question.area, question.name, findings)
