"""A folder of images as the OCI image layout has it: `index.json`, `oci-layout`, `blobs/sha256/…`.

One writer at a time (the catalogue holds a lock); readers need none, because blobs are written
before the index that names them and each file is replaced as a whole.
Format: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import pathlib
import re

import msgspec

from kci.kit import files
from kci.stack.images import oci

REFERENCE = "org.opencontainers.image.ref.name"
# What an image was built from, so that a newer recipe replaces it.
_SOURCE = "com.ksyun.kci.source"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MARKER = '{"imageLayoutVersion":"1.0.0"}'


class Index(msgspec.Struct, frozen=True, rename="camel"):
    manifests: tuple[oci.Descriptor, ...] = ()
    schema_version: int = 2
    media_type: str = "application/vnd.oci.image.index.v1+json"


class Layout:
    """Images by full reference (`docker.io/library/nginx:latest`) and blobs by digest."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def references(self) -> dict[str, oci.Descriptor]:
        """Every image here; empty if the folder is."""
        return {found.annotations[REFERENCE]: found for found in self._index().manifests}

    def source(self, reference: str) -> str:
        """What the image was built from, as `add` was told; empty if it is not here."""
        found = self.references().get(reference)
        return found.annotations.get(_SOURCE, "") if found else ""

    def blob_path(self, digest: str) -> pathlib.Path | None:
        """Where the blob lies; None if it is not here or `digest` is none."""
        if not _DIGEST.fullmatch(digest):
            return None
        path = self._path(digest)
        return path if path.is_file() else None

    def add(self, reference: str, image: oci.Image, *, source: str) -> None:
        """Add an image, or replace the one of this name."""
        for blob in image.blobs:
            if self.blob_path(blob.digest) is None:
                files.write_atomic(self._path(blob.digest), blob.content, mode=0o644)
        entry = oci.Descriptor(
            media_type=image.manifest.media_type,
            digest=image.digest,
            size=len(image.manifest.content),
            annotations={REFERENCE: reference, _SOURCE: source},
        )
        known = self.references() | {reference: entry}
        index = Index(manifests=tuple(known[name] for name in sorted(known)))
        files.write_atomic(self._folder / "oci-layout", MARKER, mode=0o644)
        files.write_atomic(self._folder / "index.json", msgspec.json.encode(index), mode=0o644)

    def remove_superseded(self) -> None:
        """Remove blobs that no image here is made of any more; who is pulling one asks again."""
        named = set()
        for found in self.references().values():
            named.add(found.digest)
            path = self.blob_path(found.digest)
            if path is not None:
                manifest = msgspec.json.decode(path.read_bytes(), type=oci.Manifest)
                named |= {part.digest for part in (manifest.config, *manifest.layers)}
        kept = {self._path(digest) for digest in named}
        for path in self._path("").iterdir():
            if path not in kept:
                path.unlink()

    def read(self, reference: str) -> oci.Image | None:
        """The whole image; None if it is not here or one of its blobs is missing."""
        found = self.references().get(reference)
        path = self.blob_path(found.digest) if found else None
        if path is None:
            return None
        content = path.read_bytes()
        manifest = msgspec.json.decode(content, type=oci.Manifest)
        parts = [self.blob_path(part.digest) for part in (manifest.config, *manifest.layers)]
        if len(parts) != 2 or parts[0] is None or parts[1] is None:
            return None
        return oci.Image(
            manifest=oci.Blob(oci.MANIFEST_TYPE, content),
            config=oci.Blob(oci.CONFIG_TYPE, parts[0].read_bytes()),
            layer=oci.Blob(oci.LAYER_TYPE, parts[1].read_bytes()),
        )

    def _index(self) -> Index:
        try:
            content = (self._folder / "index.json").read_bytes()
        except FileNotFoundError:
            return Index()
        return msgspec.json.decode(content, type=Index)

    def _path(self, digest: str) -> pathlib.Path:
        return self._folder / "blobs" / "sha256" / digest.removeprefix("sha256:")
