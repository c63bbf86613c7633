"""Files out of the machine's own packages: downloaded and unpacked beside the system, never installed.

Blocking; the caller runs it in a thread. apt keeps checking signatures as it always does.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
from collections.abc import Sequence

from kci.kit import errors

_TIMEOUT_S = 300
# Shared libraries' packages, by Debian's and Ubuntu's naming.
_LIBRARY = re.compile(r"(lib|zlib)[a-z0-9.+-]+")


@dataclasses.dataclass(frozen=True)
class Package:
    """A package as it was unpacked, by its own control file."""

    name: str
    version: str
    # The whole control file, as dpkg keeps it in its status file.
    control: str

    @property
    def depends(self) -> str:
        return ", ".join(filter(None, (_field(self.control, name) for name in ("Pre-Depends", "Depends"))))


class PackageError(errors.UserError):
    """A package could not be had from this machine's package sources."""


def candidate(name: str) -> str:
    """The version that apt would install now; PackageError if it offers none."""
    answer = _run("apt-cache", "policy", name, what=f"ask apt for the package {name}")
    found = re.search(r"^  Candidate: (\S+)$", answer, re.MULTILINE)
    if found is None or found[1] == "(none)":
        raise PackageError(
            f"cannot find the package {name} in this machine's package sources: run 'apt-get update', "
            "or add the sources of your Debian or Ubuntu release"
        )
    return found[1]


def unpack(names: Sequence[str], folder: pathlib.Path) -> list[Package]:
    """Download packages and unpack them all into `folder`."""
    downloads = folder.with_name(folder.name + ".debs")
    downloads.mkdir(parents=True, exist_ok=True)
    # One call for all, because apt reads its lists at each (about a second). It would like to drop
    # its rights for the download, but that user cannot write here.
    _run(
        "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names,
        what=f"download the packages {', '.join(names)}", folder=downloads,
    )  # fmt: skip
    found = []
    for name in names:
        archive = next(downloads.glob(f"{name}_*.deb"))
        _run("dpkg-deb", "-x", str(archive), str(folder), what=f"unpack the package {name}")
        control = _run("dpkg-deb", "-f", str(archive), what=f"read the package {name}")
        found.append(Package(name, _field(control, "Version"), control))
    return found


def unpack_with_libraries(names: Sequence[str], folder: pathlib.Path) -> list[Package]:
    """`unpack`, and the library packages these depend on, and theirs; all of them by name."""
    waiting, done = set(names), dict[str, Package]()
    while waiting:
        done |= {package.name: package for package in unpack(sorted(waiting), folder)}
        waiting = {name for package in done.values() for name in libraries(package.depends)} - done.keys()
    return [done[name] for name in sorted(done)]


def libraries(depends: str) -> list[str]:
    """The library packages of a Depends field, the first of each group of alternatives."""
    names = [clause.split("|")[0].split("(")[0].split(":")[0].strip() for clause in depends.split(",")]
    return [name for name in names if _LIBRARY.fullmatch(name)]


def _field(control: str, name: str) -> str:
    """A field of a control file, on one line; empty if it is not there."""
    found = re.search(rf"^{name}: (.*(?:\n .*)*)", control, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _run(*command: str, what: str, folder: pathlib.Path | None = None) -> str:
    env = {"PATH": os.defpath + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise PackageError(
            f"cannot {what}: this machine has no {command[0]}; "
            "the images are built from the packages of Debian or Ubuntu"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise PackageError(f"cannot {what}: no answer within {_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        reason = said[-1] if said else "no reason given"
        raise PackageError(
            f"cannot {what}: {reason} (a package list that is out of date? 'apt-get update')"
        ) from error
    return done.stdout
