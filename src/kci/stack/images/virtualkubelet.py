"""The virtual node as an image: Python from the machine's packages, the locked wheels, and our own modules.

Only what the program virtual-kubelet imports is in it. It runs as a user without rights, owns one folder,
has no shell and no file that lends anybody's rights. Equal package versions give equal bytes.
docs/how-to/deploy-the-node.md says how it is made and used; decision 0027 why it is assembled here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import platform
import re
import stat
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator

import kci
from kci.kit import errors
from kci.stack.images import oci, packages, sbom, wheels

NAME = "virtual-kubelet"
# The names it is served under: the second is the guide's, so that the guide's Deployment runs as written.
OWN_REFERENCE = f"registry.local/{NAME}:{kci.__version__}"
GUIDE_HOST = "hub.kce.ksyun.com"
GUIDE_REFERENCE = f"{GUIDE_HOST}/ksyun/rbkci-virtual-kubelet:v1.3.1"
REFERENCES = (OWN_REFERENCE, GUIDE_REFERENCE)
USER_ID = 65532
HOME = "var/lib/virtual-kubelet"
SBOM_PATH = f"usr/share/sbom/{NAME}.spdx.json"

# What the program imports of others; all that these need comes along.
ROOTS = (
    "aiohttp",
    "cryptography",
    "msgspec",
    "opentelemetry-api",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk",
    "prometheus-client",
    "pyyaml",
    "structlog",
    "uvloop",
)
# Our packages that it imports, by the table of docs/architecture.md.
OWN_PACKAGES = ("client", "contract", "kit", "kube", "provider", "vnode")

_PYTHON, _CERTIFICATES = "python3-minimal", "ca-certificates"
_OLDEST_PYTHON = 11
_MERGED = ("bin", "lib", "lib64", "sbin")
# Of Debian's packages: what a program without a person does not read, and character sets nobody converts.
_LEFT_OUT = re.compile(
    r"usr/share/(?!doc/[^/]+(/copyright)?$|zoneinfo/|mime/)|usr/lib/[^/]+/gconv/|usr/lib/python3/"
    r"|usr/lib/python3\.\d+/(ensurepip|idlelib|lib2to3|pydoc_data|turtledemo)/|usr/lib/valgrind/|var/|usr/sbin/"
)
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


@dataclasses.dataclass(frozen=True)
class Built:
    """The image and its bill of materials, which the image holds as well."""

    image: oci.Image
    sbom: bytes


def source() -> str:
    """What it is made from now, short: changes whenever the image would."""
    digest = hashlib.sha256(f"{ROOTS} {wheels.lock_text()}".encode())
    for entry in _own(""):
        digest.update(entry.path.encode() + b"\0" + entry.content)
    python = f"python{_python_version()}-minimal"
    versions = ", ".join(f"{name} {packages.candidate(name)}" for name in (python, _CERTIFICATES))
    return f"{NAME} {kci.__version__} {digest.hexdigest()[:16]}, {versions}"


def build(*, architecture: str, created: str = oci.EPOCH, revision: str = "") -> Built:
    """Download and assemble. `revision` is the commit, for the label. UserError with the remedy."""
    python = _python_version()
    site = f"usr/local/lib/python{python}/dist-packages"
    with tempfile.TemporaryDirectory() as temporary:
        root, wheelhouse = pathlib.Path(temporary, "root"), pathlib.Path(temporary, "wheels")
        from_debian = packages.unpack_with_libraries(
            [f"python{python}-minimal", f"libpython{python}-stdlib", _CERTIFICATES], root
        )
        lock = wheels.locked(wheels.lock_text())
        from_index = wheels.download(ROOTS, lock, wheelhouse, python=python, architecture=architecture)
        bill = sbom.spdx(
            NAME, _components(from_debian, from_index, architecture=architecture), created=created
        )
        entries = [
            *_system(root, python),
            *(oci.file(f"var/lib/dpkg/status.d/{one.name}", one.control) for one in from_debian),
            *(entry for wheel in from_index for entry in wheels.entries(wheel, site)),
            *_own(site),
            *_surroundings(),
            oci.file(SBOM_PATH, bill),
        ]
        return Built(
            oci.build(entries, _process(created, revision), architecture=architecture, created=created), bill
        )


def _python_version() -> str:
    """The release's own Python, such as 3.11."""
    version = packages.candidate(_PYTHON)
    found = re.match(r"(?:\d+:)?(3\.(\d+))", version)
    if found is None or int(found[2]) < _OLDEST_PYTHON:
        raise errors.UserError(
            f"cannot build the image {NAME}: this release's Python is {version}, and 3.{_OLDEST_PYTHON} or "
            "newer is needed; build it on Debian 12 or Ubuntu 24.04, or newer"
        )
    return found[1]


def _system(root: pathlib.Path, python: str) -> Iterator[oci.Entry]:
    """Debian's files, all under /usr as in its newer releases, and without any set-user-ID bit."""
    yield from (oci.link(name, f"usr/{name}") for name in _MERGED)
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        name = f"usr/{relative}" if relative.split("/")[0] in _MERGED else relative
        if _LEFT_OUT.match(name):
            continue
        if path.is_symlink():
            yield oci.link(name, str(path.readlink()))
        elif path.is_file():
            executable = bool(path.stat().st_mode & stat.S_IXUSR)
            yield oci.file(name, path.read_bytes(), mode=0o755 if executable else 0o644)
    yield oci.link("usr/bin/python3", f"python{python}")
    yield oci.file(_BUNDLE, _bundle(root))


def _bundle(root: pathlib.Path) -> bytes:
    """All authorities in one file, as the package's own script makes it when it is installed."""
    found = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if not found:
        raise errors.UserError(
            f"cannot build the image {NAME}: the package {_CERTIFICATES} brought no certificate"
        )
    return b"".join(path.read_bytes().rstrip() + b"\n" for path in found)


def _own(site: str) -> list[oci.Entry]:
    """Our modules as they are installed here."""
    top = pathlib.Path(kci.__file__).parent
    files = [top / "__init__.py", *(path for name in OWN_PACKAGES for path in (top / name).rglob("*"))]
    return [
        oci.file(f"{site}/kci/{path.relative_to(top).as_posix()}", path.read_bytes())
        for path in sorted(files)
        if path.is_file() and "__pycache__" not in path.parts
    ]


def _surroundings() -> list[oci.Entry]:
    # I: no path or variable of the user's; B: no byte code, which that user could not write; u: logs at once.
    program = (
        "#!/usr/bin/python3 -IBu\nimport sys\n\nfrom kci.provider.main import main\n\n"
        f'sys.argv[0] = "{NAME}"\nmain()\n'
    )
    users = f"root:x:0:0:root:/root:/sbin/nologin\n{NAME}:x:{USER_ID}:{USER_ID}::/{HOME}:/sbin/nologin\n"
    return [
        oci.file(f"usr/local/bin/{NAME}", program, mode=0o755),
        oci.file("etc/passwd", users),
        oci.file("etc/group", f"root:x:0:\n{NAME}:x:{USER_ID}:\n"),
        oci.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        oci.directory(HOME, mode=0o700, owner=USER_ID),
        oci.directory("tmp", mode=0o1777),
        oci.directory("run"),
    ]


def _process(created: str, revision: str) -> oci.Process:
    labels = {
        "created": created,
        "description": "Virtual node of Kingsoft Cloud Container Instance for Kubernetes",
        "licenses": "Apache-2.0",
        "revision": revision,
        "title": NAME,
        "version": kci.__version__,
    }
    return oci.Process(
        entrypoint=(NAME,),
        env=(*oci.Process().env, f"SSL_CERT_FILE=/{_BUNDLE}", "LANG=C.UTF-8", f"HOME=/{HOME}"),
        ports=("10250/tcp",),
        user=f"{USER_ID}:{USER_ID}",
        working_dir=f"/{HOME}",
        labels={f"org.opencontainers.image.{name}": text for name, text in labels.items() if text},
    )


def _components(
    from_debian: Iterable[packages.Package], from_index: Iterable[wheels.Wheel], *, architecture: str
) -> Iterator[sbom.Component]:
    release = platform.freedesktop_os_release()
    where = f"arch={architecture}&distro={release.get('VERSION_CODENAME', '')}"
    yield sbom.Component(NAME, kci.__version__, f"pkg:generic/{NAME}@{kci.__version__}")
    for package in from_debian:
        version = urllib.parse.quote(package.version, safe="")
        purl = f"pkg:deb/{release['ID']}/{package.name}@{version}?{where}"
        yield sbom.Component(package.name, package.version, purl)
    for wheel in from_index:
        purl = f"pkg:pypi/{wheel.name}@{wheel.version}"
        yield sbom.Component(wheel.name, wheel.version, purl, wheel.sha256)
