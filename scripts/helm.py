"""Build Helm from its Go module, once per version, and print where it lies: the chart's tests need it.

A tool of the development of kci and no part of it: the module in go-helm pins it, and nothing of a stack
comes from here. Built programs are kept in the user's cache folder, beside the stack's.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from kci.kit import environment

MODULE = pathlib.Path(__file__).resolve().parent / "go-helm"
PROGRAM = "helm.sh/helm/v4/cmd/helm"
FLAGS = ("-trimpath", "-ldflags", "-s -w")
# Cold, it takes four minutes on two cores that have nothing else to do.
TIMEOUT_S = 3600


def main() -> int:
    path = cached_path()
    if path.exists():
        print(path)
        return 0
    go = find_go()
    if go is None:
        print(
            "cannot build helm: install Go, or run `python -m kci.stack.goprograms`, which does",
            file=sys.stderr,
        )
        return 1
    print("building helm, once; minutes if Go's cache is cold", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"helm.{os.getpid()}.new")
    subprocess.run(
        [go, "build", *FLAGS, "-o", temporary, PROGRAM],
        cwd=MODULE, env={**environment.read(), "CGO_ENABLED": "0"}, check=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    temporary.replace(path)
    print(path)
    return 0


def cached_path() -> pathlib.Path:
    """Where the built program is, or would be."""
    pinned = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))
    key = hashlib.sha256(pinned + " ".join(FLAGS).encode()).hexdigest()[:16]
    return _cache() / f"helm-{key}" / "helm"


def find_go() -> str | None:
    """Go on this machine, or the one that the stack installed for itself."""
    kept = sorted(_cache().glob("go-*/go/bin/go"))
    return shutil.which("go") or (str(kept[-1]) if kept else None)


def _cache() -> pathlib.Path:
    variables = environment.read()
    return pathlib.Path(variables.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "kci")


if __name__ == "__main__":
    sys.exit(main())
