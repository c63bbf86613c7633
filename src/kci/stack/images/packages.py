"""Files out of the machine's own packages: downloaded and unpacked beside the system, never installed.

Blocking; the caller runs it in a thread. apt keeps checking signatures as it always does.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Sequence

from kci.kit import errors

_TIMEOUT_S = 300
# Shared libraries' packages, by Debian's and Ubuntu's naming.
_LIBRARY = re.compile(r"(lib|zlib)[a-z0-9.+-]+")


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


def unpack(names: Sequence[str], folder: pathlib.Path) -> list[str]:
    """Download packages and unpack them all into `folder`; returns their Depends fields."""
    downloads = folder.with_name(folder.name + ".debs")
    downloads.mkdir(parents=True, exist_ok=True)
    # One call for all, because apt reads its lists at each (about a second). It would like to drop
    # its rights for the download, but that user cannot write here.
    _run(
        "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names,
        what=f"download the packages {', '.join(names)}", folder=downloads,
    )  # fmt: skip
    depends = []
    for name in names:
        archive = next(downloads.glob(f"{name}_*.deb"))
        _run("dpkg-deb", "-x", str(archive), str(folder), what=f"unpack the package {name}")
        depends.append(_run("dpkg-deb", "-f", str(archive), "Depends", what=f"read the package {name}"))
    return depends


def unpack_with_libraries(names: Sequence[str], folder: pathlib.Path) -> None:
    """`unpack`, and the library packages these depend on, and theirs."""
    waiting, done = set(names), set[str]()
    while waiting:
        found = {name for depends in unpack(sorted(waiting), folder) for name in libraries(depends)}
        done |= waiting
        waiting = found - done


def libraries(depends: str) -> list[str]:
    """The library packages of a Depends field, the first of each group of alternatives."""
    names = [clause.split("|")[0].split("(")[0].split(":")[0].strip() for clause in depends.split(",")]
    return [name for name in names if _LIBRARY.fullmatch(name)]


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
