"""What goes wrong between two programs, as data: which exchanges, what happens to them, how often. Pure.

An exchange is a request with its answer where the proxy reads HTTP, else a whole connection. What happens
to the n-th exchange that a rule is about follows from the seed alone, not from what ran beside it, so a
seed replays a run.
"""

from __future__ import annotations

import dataclasses
import enum
import random
import re
from collections.abc import Sequence


class When(enum.Enum):
    """Whether the other side got the request and acted on it. The difference is what a caller cannot see."""

    BEFORE = "before the request arrived"
    AFTER = "after the request arrived"


@dataclasses.dataclass(frozen=True)
class Delay:
    """The request is held back for a while."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class Stall:
    """Nothing comes any more, and nobody closes."""

    when: When = When.AFTER


@dataclasses.dataclass(frozen=True)
class Cut:
    """The connection ends without an answer; `reset` tells it by RST."""

    when: When = When.AFTER
    reset: bool = False


@dataclasses.dataclass(frozen=True)
class Truncate:
    """The connection ends after this many bytes of the answer, its head included."""

    at_byte: int
    reset: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """The proxy answers in the other's place. `padding_bytes` of spaces stand before the body: JSON allows
    any number of them, so that a huge body is right or wrong as `body` is.
    """

    status: int = 200
    body: bytes = b""
    when: When = When.BEFORE
    retry_after: str = ""
    padding_bytes: int = 0
    content_type: str = "application/json"


Fault = Delay | Stall | Cut | Truncate | Answer
HUGE = Answer(body=b"{}", padding_bytes=200 * 2**20)
WRONG_JSON = Answer(body=b'{"items": [{"metadata": ')
WRONGLY_TYPED = Answer(body=b'{"metadata": 7, "items": "none", "ContainerGroups": {"a": 1}}')


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What can be known of it before it happens. Method and path are empty where no HTTP is read."""

    link: str
    client: str = ""
    method: str = ""
    # With its query, as on the wire.
    path: str = ""
    # Of the signed API, which has one path: the call's Action.
    operation: str = ""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A fault and the exchanges that it befalls: of those that match, not the first `skip`, then `times` of
    them (all, if None), each with the chance `share`. The patterns are found anywhere in their texts.
    """

    fault: Fault
    client: str = ""
    method: str = ""
    path: str = ""
    operation: str = ""
    share: float = 1.0
    skip: int = 0
    times: int | None = None

    def matches(self, exchange: Exchange) -> bool:
        return all(
            re.search(pattern, text)
            for pattern, text in (
                (self.client, exchange.client),
                (self.method, exchange.method),
                (self.path, exchange.path),
                (self.operation, exchange.operation),
            )
        )


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Rules in the order in which they are asked; the first that fires decides."""

    name: str
    rules: tuple[Rule, ...] = ()


CALM = Scenario("calm")


def fires(rule: Rule, *, number: int, chance: float) -> bool:
    """Whether a rule acts on the exchange that is its `number`-th match, counted from 0."""
    if number < rule.skip or (rule.times is not None and number >= rule.skip + rule.times):
        return False
    return chance < rule.share


def chance(seed: int, rule_index: int, number: int) -> float:
    """The throw of the dice for a rule's `number`-th match."""
    return random.Random(f"{seed} {rule_index} {number}").random()


class Play:
    """A scenario being played: counts each rule's matches."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self._matches = [0] * len(scenario.rules)

    def decide(self, exchange: Exchange) -> Fault | None:
        """What happens to the next exchange."""
        decided: Fault | None = None
        for index, rule in enumerate(self.scenario.rules):
            if not rule.matches(exchange):
                continue
            number = self._matches[index]
            self._matches[index] += 1
            if decided is None and fires(rule, number=number, chance=chance(self.seed, index, number)):
                decided = rule.fault
        return decided


def mixed(share: float, faults: Sequence[Fault], *, client: str = "") -> tuple[Rule, ...]:
    """Rules that together befall about `share` of the exchanges, each fault equally often."""
    return tuple(Rule(fault, client=client, share=share / len(faults)) for fault in faults)


# What may become of a call; each leaves the other side to find out.
HARM = (
    Cut(When.BEFORE),
    Cut(When.AFTER),
    Cut(When.AFTER, reset=True),
    Truncate(300),
    Answer(503, b"{}", retry_after="1"),
    Answer(429, b"{}", retry_after="1"),
    Answer(500, b"no JSON at all"),
    WRONG_JSON,
)
