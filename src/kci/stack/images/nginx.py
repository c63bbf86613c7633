"""The sample's nginx image from the machine's own packages, laid out as the public `nginx` image is.

Configuration in /etc/nginx/conf.d, pages in /usr/share/nginx/html, logs on standard output and error,
port 80, SIGQUIT to stop: a pod written for the public image runs on this one. busybox adds a shell and
the usual commands, as `kubectl exec` users expect.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import tempfile

from kci.kit import errors
from kci.stack.images import busybox, oci, packages

PACKAGE, COMMON_PACKAGE = "nginx", "nginx-common"
_USER_ID = 101
_LIST_TIMEOUT_S = 30

_CONFIG = """\
user nginx;
worker_processes 1;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    include /etc/nginx/conf.d/*.conf;
}
"""
_DEFAULT_SITE = """\
server {
    listen 80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html;
    }
}
"""
_PAGE = """\
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>This page comes from a container instance.
Its image was built by kci from the nginx package of this machine's distribution.</p>
</body>
</html>
"""


def build(shell: bytes, *, architecture: str) -> oci.Image:
    """`shell` is a static busybox."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary, "root")
        packages.unpack_with_libraries([PACKAGE, COMMON_PACKAGE], folder)
        entries = [*_program(folder), *_settings(folder), *_shell(shell)]
    return oci.build(
        entries,
        oci.Process(command=("nginx", "-g", "daemon off;"), ports=("80/tcp",), stop_signal="SIGQUIT"),
        architecture=architecture,
    )


def _program(folder: pathlib.Path) -> list[oci.Entry]:
    """nginx, its loader and just the shared libraries that the loader names."""
    program = folder / "usr/sbin/nginx"
    named, loader = _loader(folder)
    folders = ":".join(sorted({str(path.parent) for path in folder.rglob("lib*.so.*") if path.is_file()}))
    listed = subprocess.run(
        [loader, "--library-path", folders, "--list", program],
        capture_output=True, text=True, check=True, timeout=_LIST_TIMEOUT_S,
    ).stdout  # fmt: skip
    if missing := re.findall(r"(\S+) => not found", listed):
        raise errors.UserError(
            f"cannot build the image nginx:latest: no package brought {', '.join(missing)}"
        )
    libraries = {pathlib.Path(found) for found in re.findall(r" => (/\S+)", listed)}
    return [
        *(oci.link(name, f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")),
        _program_file(folder, named, loader),
        *(_program_file(folder, path, path) for path in sorted({program, *libraries})),
    ]


def _loader(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The path by which programs name the loader, and the file. The first may be an absolute link,
    which would lead from here to the machine's own loader.
    """
    named = sorted({*folder.glob("lib*/ld-linux*.so.*"), *folder.glob("usr/lib*/ld-linux*.so.*")})
    files = [path for path in folder.rglob("ld-linux*.so.*") if not path.is_symlink()]
    if not named or not files:
        raise errors.UserError("cannot build the image nginx:latest: the package libc6 brought no loader")
    return named[0], files[0]


def _program_file(folder: pathlib.Path, path: pathlib.Path, content: pathlib.Path) -> oci.Entry:
    """A file where the package has it, under /usr wherever an older package does not have it there."""
    relative = path.relative_to(folder)
    usr = relative if relative.parts[0] == "usr" else "usr" / relative
    return oci.file(str(usr), content.read_bytes(), mode=0o755)


def _settings(folder: pathlib.Path) -> list[oci.Entry]:
    return [
        oci.file("etc/nginx/mime.types", (folder / "etc/nginx/mime.types").read_bytes()),
        oci.file("etc/nginx/nginx.conf", _CONFIG),
        oci.file("etc/nginx/conf.d/default.conf", _DEFAULT_SITE),
        oci.file("usr/share/nginx/html/index.html", _PAGE),
        oci.file(
            "etc/passwd", f"{busybox.USERS}nginx:x:{_USER_ID}:{_USER_ID}:nginx:/nonexistent:/bin/false\n"
        ),
        oci.file("etc/group", f"{busybox.GROUPS}nginx:x:{_USER_ID}:\n"),
        # Debian's nginx keeps request bodies and the like below this folder, and makes the folders in it.
        oci.directory("var/lib/nginx"),
        # Compiled-in names: opened before the configuration is read.
        oci.link("var/log/nginx/access.log", "/dev/stdout"),
        oci.link("var/log/nginx/error.log", "/dev/stderr"),
        oci.directory("run"),
        oci.directory("root", mode=0o700),
        oci.directory("tmp", mode=0o1777),
    ]


def _shell(shell: bytes) -> list[oci.Entry]:
    return [
        oci.file("usr/bin/busybox", shell, mode=0o755),
        *(oci.link(f"usr/bin/{name}", "busybox") for name in busybox.applets(shell)),
    ]
