"""The busybox image, and busybox's commands for other images, from the machine's busybox-static.

Of Debian's applets `wget` crashes in a container (its static C library cannot look names up there);
sh, nc, ping, ip and the rest work.
"""

from __future__ import annotations

import pathlib
import struct
import subprocess
import tempfile

from kci.stack.images import oci, packages

PACKAGE = "busybox-static"
_INSTALLED = (pathlib.Path("/bin/busybox"), pathlib.Path("/usr/bin/busybox"))
_PROGRAM_INTERPRETER = 3

USERS = (
    "root:x:0:0:root:/root:/bin/sh\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
)
GROUPS = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"


def program() -> bytes:
    """The static busybox of this machine, or that of its package sources."""
    for path in _INSTALLED:
        if path.is_file() and is_static(content := path.read_bytes()):
            return content
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary, "root")
        packages.unpack([PACKAGE], folder)
        return next(
            path for path in (folder / "bin/busybox", folder / "usr/bin/busybox") if path.is_file()
        ).read_bytes()


def build(busybox: bytes, *, architecture: str) -> oci.Image:
    return oci.build(
        [
            oci.file("bin/busybox", busybox, mode=0o755),
            *(oci.link(f"bin/{name}", "busybox") for name in applets(busybox)),
            oci.file("etc/passwd", USERS),
            oci.file("etc/group", GROUPS),
            oci.directory("root", mode=0o700),
            oci.directory("tmp", mode=0o1777),
        ],
        oci.Process(command=("sh",)),
        architecture=architecture,
    )


def applets(busybox: bytes) -> list[str]:
    """The names busybox answers to, but its own."""
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary, "busybox")
        path.write_bytes(busybox)
        path.chmod(0o700)
        listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=True, timeout=30)
    return sorted(set(listed.stdout.split()) - {"busybox"})


def is_static(elf: bytes) -> bool:
    """Whether a 64-bit ELF program needs no loader, that is, names no interpreter."""
    if elf[:5] != b"\x7fELF\x02":
        return False
    table, size, count = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54)
    kinds = {struct.unpack_from("<I", elf, table + number * size)[0] for number in range(count)}
    return _PROGRAM_INTERPRETER not in kinds
