"""What a stack could leave on a machine, taken before and after, to be compared."""

from __future__ import annotations

import pathlib
import subprocess
import tempfile

from kci.stack import layout

# What of the integration tests may be there meanwhile; stacks have other names.
_TEST_NAMESPACE, _TEST_FOLDERS = "kci-test-", "/pytest-of-"


def _lines(*argv: str) -> frozenset[str]:
    return frozenset(subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines())


def processes(*marks: str) -> frozenset[str]:
    """Command lines of running processes that name one of the marks (state dir, namespace)."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(mark in words for mark in marks):
            found.add(f"{entry.name} {words}")
    return frozenset(found)


def cgroups() -> frozenset[str]:
    root = pathlib.Path("/sys/fs/cgroup")
    hierarchies = (
        [root]
        if (root / "cgroup.controllers").exists()
        else [path for path in root.iterdir() if path.is_dir()]
    )
    return frozenset(
        str(child) for hierarchy in hierarchies for child in hierarchy.iterdir() if child.is_dir()
    )


def machine(own: pathlib.Path) -> dict[str, frozenset[str]]:
    """Everything but processes, as seen from the machine's own namespaces, for the stack of this folder.
    Other stacks of tests that are there just now come and go as they like, and so do the namespaces, folders
    and containerds of tests beside these.
    """
    others = [one for one in pathlib.Path(tempfile.gettempdir()).glob("kci-*") if one != own]
    marks = [mark for one in others for mark in (one.name, layout.Layout(one).tag)]
    marks += [_TEST_NAMESPACE, _TEST_FOLDERS]
    found = {
        "mounts": frozenset(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()),
        "network namespaces": frozenset(path.name for path in pathlib.Path("/run/netns").glob("*")),
        "links": frozenset(path.name for path in pathlib.Path("/sys/class/net").iterdir()),
        "routes": _lines("ip", "route", "show", "table", "all")
        | _lines("ip", "-6", "route", "show", "table", "all"),
        "nft tables": _lines("nft", "list", "tables"),
        "cgroups": cgroups(),
    }
    return {
        what: frozenset(one for one in seen if not any(mark in one for mark in marks))
        for what, seen in found.items()
    }
