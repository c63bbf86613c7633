"""`make test`: all tests but the long ones, in sessions of pytest beside each other."""

from __future__ import annotations

import pathlib
import secrets
import sys
import tempfile
from collections.abc import Sequence

import sessions

from kci.kit import environment

SESSIONS = (
    sessions.Session("end to end"),
    sessions.Session("integration", ("tests/integration",)),
    sessions.Session("alone", ("tests/contract", "tests/unit")),
)


def main(options: Sequence[str]) -> int:
    variables = {"KCI_SEED": str(secrets.randbits(32)), **environment.read()}
    with tempfile.TemporaryDirectory(prefix="kci-test-") as name:
        code, told = sessions.run(SESSIONS, options, variables, pathlib.Path(name))
    if told and told.failed:
        print("failed:", *told.failed, sep="\n  ")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
