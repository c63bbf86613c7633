"""An image as one file: the OCI image layout in an archive, as containerd, podman and skopeo read it.

Pure: equal images under equal names give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kci.stack.images import layout, oci

# By which containerd names what it imports.
_CONTAINERD_NAME = "io.containerd.image.name"


def archive(image: oci.Image, references: Iterable[str]) -> bytes:
    """The image once, under each of these full references."""
    index = layout.Index(
        manifests=tuple(
            oci.Descriptor(
                media_type=image.manifest.media_type,
                digest=image.digest,
                size=len(image.manifest.content),
                annotations={_CONTAINERD_NAME: reference, layout.REFERENCE: reference},
            )
            for reference in references
        )
    )
    return oci.tar(
        [
            oci.file("oci-layout", layout.MARKER),
            oci.file("index.json", msgspec.json.encode(index)),
            *(
                oci.file(f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", blob.content)
                for blob in image.blobs
            ),
        ]
    )
