"""What a test needs of the machine: skipped with the reason in words where it is missing, never in CI."""

import pathlib

import helm as helm_tool
import pytest

from kci.kit import environment
from kci.stack import goprograms


def demand(reason: str) -> None:
    """Go on if there is no reason against it."""
    if reason and environment.read().get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def go_program(program: str) -> pathlib.Path:
    """Where the stack keeps a Go program that it built."""
    cache = pathlib.Path(environment.read().get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "kci")
    path = goprograms.cached_path(program, goprograms.read_module(program=program), cache)
    demand("" if path.exists() else f"{program} is not built: `python -m kci.stack.goprograms` builds it")
    return path


def helm() -> pathlib.Path:
    """Helm, built by scripts/helm.py."""
    path = helm_tool.cached_path()
    demand("" if path.exists() else "helm is not built: `python scripts/helm.py` builds it")
    return path
