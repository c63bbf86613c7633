"""The bill of materials of an image, as SPDX 2.3 in JSON: what it is made of, from where, by which hash.

Pure: equal input gives equal bytes, the document's own name and time included.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable

import msgspec


@dataclasses.dataclass(frozen=True)
class Component:
    """One package of an image; `purl` as the package URL specification has it."""

    name: str
    version: str
    purl: str
    sha256: str = ""


def spdx(name: str, components: Iterable[Component], *, created: str) -> bytes:
    """The document; the first component is what the image is for, and contains the others."""
    listed = list(components)
    packages = [_package(one) for one in listed]
    root = packages[0]["SPDXID"]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:spdx:{name}:{_digest(packages)}",
        "creationInfo": {"created": created, "creators": ["Tool: kci"]},
        "packages": packages,
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", root),
            *(_relation(root, "CONTAINS", one["SPDXID"]) for one in packages[1:]),
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _package(one: Component) -> dict[str, object]:
    kind = one.purl.removeprefix("pkg:").split("/")[0]
    # Letters, digits, dots and hyphens are all that an identifier may have.
    identifier = re.sub(r"[^A-Za-z0-9.-]", "-", f"SPDXRef-{kind}-{one.name}")
    return {
        "name": one.name,
        "SPDXID": identifier,
        "versionInfo": one.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        **({"checksums": [{"algorithm": "SHA256", "checksumValue": one.sha256}]} if one.sha256 else {}),
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": one.purl,
            }
        ],
    }


def _relation(element: object, kind: str, related: object) -> dict[str, object]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": related}


def _digest(packages: list[dict[str, object]]) -> str:
    return hashlib.sha256(msgspec.json.encode(packages)).hexdigest()[:32]
