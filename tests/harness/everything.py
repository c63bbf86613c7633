"""`make test`: all tests but the long ones, in sessions of pytest beside each other."""

from __future__ import annotations

import pathlib
import secrets
import sys
import tempfile
from collections.abc import Sequence

import sessions

from kci.kit import environment

# Two lines, for tests of one come one after the other. What makes stacks of its own is with the second.
SESSIONS = (
    sessions.Session("end to end"),
    sessions.Session(
        "stacks",
        tuple(
            f"tests/e2e/test_{name}.py"
            for name in (
                "guide_deployed",
                "quick_start",
                "rights",
                "stack",
                "logs",
                "security_groups",
                "services",
                "top",
            )
        ),
    ),
    sessions.Session("integration", ("tests/integration",)),
    sessions.Session("alone", ("tests/contract", "tests/unit")),
)


def main(options: Sequence[str]) -> int:
    variables = {"KCI_SEED": str(secrets.randbits(32)), **environment.read()}
    with tempfile.TemporaryDirectory(prefix="kci-test-") as name:
        code, told = sessions.run(SESSIONS, options, variables, pathlib.Path(name))
    if told is None:
        return code or sessions.FAILED
    if told.failed:
        print("failed:", *told.failed, sep="\n  ")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
