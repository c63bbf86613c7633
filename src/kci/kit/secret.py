"""Secrets that print as stars, so that no log line, error or repr can carry one."""

from __future__ import annotations

import dataclasses
import hmac


@dataclasses.dataclass(frozen=True, eq=False)
class Secret:
    """A secret text. `reveal()` is the one way to its value; comparison takes constant time."""

    _value: str

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)
