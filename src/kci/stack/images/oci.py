"""OCI images from plain entries, deterministic: equal entries give equal bytes, so equal digests.

Pure. An image has one layer, an uncompressed tar (its digest is its diff id, and nothing has to be
unpacked twice) whose entries are sorted, belong to whom the entry says, and carry no time.
Format: OCI image-spec 1.1 (manifest.md, config.md, layer.md).
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterable

import msgspec

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
EPOCH = "1970-01-01T00:00:00Z"


class Kind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One path of an image, relative to its root; `content` is a link's target when it is a link."""

    path: str
    kind: Kind
    content: bytes
    mode: int
    owner: int = 0


def file(path: str, content: bytes | str, *, mode: int = 0o644, owner: int = 0) -> Entry:
    data = content.encode() if isinstance(content, str) else content
    return Entry(path, Kind.FILE, data, mode, owner)


def directory(path: str, *, mode: int = 0o755, owner: int = 0) -> Entry:
    return Entry(path, Kind.DIRECTORY, b"", mode, owner)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.LINK, target.encode(), 0o777)


@dataclasses.dataclass(frozen=True)
class Process:
    """What a container of the image runs unless the pod says otherwise."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    ports: tuple[str, ...] = ()
    stop_signal: str = ""
    # uid:gid; empty is root.
    user: str = ""
    working_dir: str = "/"
    labels: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Blob:
    """Bytes under their digest."""

    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.content).hexdigest()

    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.content))


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A blob as manifests and indexes name it."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = MANIFEST_TYPE


class _RunConfig(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    exposed_ports: dict[str, dict[str, str]] = {}
    stop_signal: str = ""
    working_dir: str = ""
    labels: dict[str, str] = {}


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]
    type: str = "layers"


class _Config(msgspec.Struct, frozen=True):
    architecture: str
    config: _RunConfig
    rootfs: _RootFs
    created: str = EPOCH
    os: str = "linux"


@dataclasses.dataclass(frozen=True)
class Image:
    """An image's three blobs. Its digest is its manifest's."""

    manifest: Blob
    config: Blob
    layer: Blob

    @property
    def blobs(self) -> tuple[Blob, Blob, Blob]:
        """The manifest comes last: a reader that finds it finds what it names."""
        return self.layer, self.config, self.manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest


def build(entries: Iterable[Entry], process: Process, *, architecture: str, created: str = EPOCH) -> Image:
    """One image; parent directories that no entry names are made. ValueError if a path is named twice.

    `created` is what the image says of itself (RFC 3339, UTC); its files carry no time all the same.
    """
    layer = Blob(LAYER_TYPE, tar(entries))
    config = Blob(
        CONFIG_TYPE,
        msgspec.json.encode(
            _Config(
                architecture=architecture,
                created=created,
                config=_RunConfig(
                    user=process.user,
                    env=process.env,
                    entrypoint=process.entrypoint,
                    cmd=process.command,
                    exposed_ports={port: {} for port in process.ports},
                    stop_signal=process.stop_signal,
                    working_dir=process.working_dir,
                    labels=dict(sorted(process.labels.items())),
                ),
                rootfs=_RootFs(diff_ids=(layer.digest,)),
            )
        ),
    )
    manifest = Manifest(config=config.descriptor(), layers=(layer.descriptor(),))
    return Image(Blob(MANIFEST_TYPE, msgspec.json.encode(manifest)), config, layer)


def tar(entries: Iterable[Entry]) -> bytes:
    """The entries and their parents as an archive, sorted and without times."""
    return _to_tar(_with_parents(entries))


def _with_parents(entries: Iterable[Entry]) -> list[Entry]:
    by_path: dict[str, Entry] = {}
    for entry in entries:
        path = entry.path.strip("/")
        if path in by_path:
            raise ValueError(f"cannot build an image that names /{path} twice")
        by_path[path] = dataclasses.replace(entry, path=path)
    for path in list(by_path):
        parent = posixpath.dirname(path)
        while parent:
            by_path.setdefault(parent, directory(parent))
            parent = posixpath.dirname(parent)
    # Sorted by parts, so that a directory comes before all that lies in it.
    return sorted(by_path.values(), key=lambda entry: entry.path.split("/"))


def _to_tar(entries: Iterable[Entry]) -> bytes:
    buffer = io.BytesIO()
    # GNU and not PAX: PAX headers would carry what the Python version thinks worth saying.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.owner, entry.owner, 0
            match entry.kind:
                case Kind.FILE:
                    member.size = len(entry.content)
                    archive.addfile(member, io.BytesIO(entry.content))
                case Kind.DIRECTORY:
                    member.type = tarfile.DIRTYPE
                    archive.addfile(member)
                case Kind.LINK:
                    member.type, member.linkname = tarfile.SYMTYPE, entry.content.decode()
                    archive.addfile(member)
    return buffer.getvalue()
