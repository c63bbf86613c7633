"""The one door to environment variables; only a program's settings.py reads through it."""

from __future__ import annotations

import os
from collections.abc import Mapping


def read() -> Mapping[str, str]:
    """A copy of the environment as it is now."""
    return dict(os.environ)  # noqa: TID251  (this is the door)
