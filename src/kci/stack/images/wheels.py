"""Python packages out of the lock file: downloaded by hash and unpacked as entries of an image.

Nothing is installed and nothing is built: what has no wheel for the image's Python is an error.
Blocking; the caller runs it in a thread. pip takes packages from where it is set up to.
"""

from __future__ import annotations

import dataclasses
import email.parser
import hashlib
import importlib.resources
import pathlib
import posixpath
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping

from kci.kit import errors
from kci.stack.images import oci

LOCK = "requirements.lock"
_TIMEOUT_S = 600
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)")
# The C libraries that wheels for these may ask for are those of Debian 12 or older.
_GLIBC = (
    *(f"manylinux_2_{minor}" for minor in (36, 35, 34, 31, 28, 27, 26, 24, 17)),
    "manylinux2014",
)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One package: what it is called, where its wheel lies, what it needs by name."""

    name: str
    version: str
    path: pathlib.Path
    sha256: str
    requires: tuple[str, ...]


def lock_text() -> str:
    """The lock file, of which the checkout has a link here and the installed package a copy."""
    try:
        return (importlib.resources.files("kci.stack.images") / LOCK).read_text()
    except FileNotFoundError as error:
        raise errors.UserError(f"cannot find {LOCK} beside the package: install kci again") from error


def locked(text: str) -> dict[str, str]:
    """Each package of a lock file by its name as the index has it, with its own lines."""
    found, lines = dict[str, str](), text.splitlines()
    for number, line in enumerate(lines):
        if match := _REQUIREMENT.match(line):
            following = iter(lines[number + 1 :])
            hashes = [*_while_indented(following)]
            found[canonical(match[1])] = "\n".join([line, *hashes]) + "\n"
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(
    roots: Iterable[str], lock: Mapping[str, str], folder: pathlib.Path, *, python: str, architecture: str
) -> list[Wheel]:
    """The wheels of `roots` and of all that they need, sorted by name.

    What the lock does not name no Python of ours needs: it was made for all of them.
    """
    waiting, asked, done = {canonical(root) for root in roots}, set[str](), dict[str, Wheel]()
    if missing := waiting - lock.keys():
        raise errors.UserError(f"cannot find {', '.join(sorted(missing))} in {LOCK}: run `make lock`")
    while waiting:
        _download("".join(lock[name] for name in sorted(waiting)), folder, python, architecture)
        done = {wheel.name: wheel for wheel in map(_read, sorted(folder.glob("*.whl")))}
        # Asked for and not done is what a marker in the lock rules out.
        asked |= waiting
        waiting = {name for wheel in done.values() for name in wheel.requires if name in lock} - asked
    return [done[name] for name in sorted(done)]


def entries(wheel: Wheel, site: str) -> list[oci.Entry]:
    """A wheel's files below the folder `site` of an image. Programs of its own are left out.

    Format: the binary distribution format, with `<name>.data/purelib` and `platlib`.
    """
    found = []
    with zipfile.ZipFile(wheel.path) as archive:
        for member in archive.infolist():
            name = _place(member.filename)
            if member.is_dir() or not name:
                continue
            executable = bool((member.external_attr >> 16) & stat.S_IXUSR)
            path = posixpath.join(site, name)
            found.append(oci.file(path, archive.read(member), mode=0o755 if executable else 0o644))
    return found


def _place(name: str) -> str:
    """Where a member of a wheel goes; empty for what is not wanted."""
    if posixpath.isabs(name) or ".." in name.split("/"):
        raise errors.UserError(f"cannot unpack a wheel whose member {name!r} leads out of it")
    found = re.match(r"[^/]+\.data/([^/]+)/(.*)", name)
    if found is None:
        return name
    return found[2] if found[1] in {"purelib", "platlib"} else ""


def _while_indented(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if not line.startswith(" "):
            return
        yield line


def _download(requirements: str, folder: pathlib.Path, python: str, architecture: str) -> None:
    machine = _MACHINES[architecture]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
            "--require-hashes", "--no-deps", "--only-binary=:all:", "--dest", str(folder),
            "--implementation", "cp", "--python-version", python,
            *(f"--platform={glibc}_{machine}" for glibc in _GLIBC), "--requirement", file.name,
        ]  # fmt: skip
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise errors.UserError(
                f"cannot download the packages of {LOCK}: no end within {_TIMEOUT_S} s"
            ) from error
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip().splitlines()
            raise errors.UserError(
                f"cannot download the packages of {LOCK} for Python {python}: "
                f"{said[-1] if said else 'no reason given'} (is pip set up to reach an index?)"
            ) from error


def _read(path: pathlib.Path) -> Wheel:
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        named = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = email.parser.BytesParser().parsebytes(archive.read(named), headersonly=True)
    requires = (str(one) for one in metadata.get_all("Requires-Dist", ()))
    return Wheel(
        name=canonical(str(metadata["Name"])),
        version=str(metadata["Version"]),
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        requires=tuple(
            canonical(re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0])
            for one in requires
            if not re.search(r"\bextra\s*==", one)
        ),
    )
