"""Image names and which of a pod's registry credentials may be shown to which registry.

Names: the grammar of distribution/reference v0.6 (reference.go, regexp.go). Credentials: the rules
of pkg/credentialprovider/keyring.go (1.36): a host pattern, part by part, and a path prefix.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from kci.kcilet import ports

_DEFAULT_REGISTRY = "docker.io"
_SEPARATOR = r"(?:[._]|__|-+)"
_PATH_PART = rf"[a-z0-9]+(?:{_SEPARATOR}[a-z0-9]+)*"
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_NAME = re.compile(
    rf"(?:{_HOST}/)?{_PATH_PART}(?:/{_PATH_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_IDENTIFIER = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


def check_name(image: str) -> None:
    """Raises ImagePullError (InvalidImageName) for what no registry could be asked for."""
    if len(image) > 1024 or not _NAME.fullmatch(image) or _IDENTIFIER.fullmatch(image):
        raise ports.ImagePullError(
            "InvalidImageName",
            f"cannot read the image name {image[:256]!r}: expected [host[:port]/]path[:tag][@digest]",
        )


def choose_auths(image: str, auths: Sequence[ports.RegistryAuth]) -> list[ports.RegistryAuth]:
    """The credentials for this image's registry, the longest path first."""
    host, path = _split(image.split("@", maxsplit=1)[0])
    fitting = [
        (len(auth_path), auth)
        for auth in auths
        for auth_host, auth_path in [_split_server(auth.server)]
        if _matches_host(auth_host, host) and f"{path}/".startswith(f"{auth_path}/" if auth_path else "")
    ]
    return [auth for _, auth in sorted(fitting, key=lambda pair: -pair[0])]


def _split(image: str) -> tuple[str, str]:
    """Host and path; a first part without dot, colon or "localhost" is no host but Docker Hub's path."""
    first, slash, rest = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest.split(":")[0]
    path = image.split(":", maxsplit=1)[0]
    return _DEFAULT_REGISTRY, path if "/" in path else f"library/{path}"


def _split_server(server: str) -> tuple[str, str]:
    """A key of a Docker configuration: with or without scheme, and the API's version as path."""
    host, _, path = re.sub(r"^https?://", "", server).partition("/")
    path = re.sub(r"^v[12](/|$)", "", path).strip("/")
    if host in {"index.docker.io", "registry-1.docker.io"}:
        host = _DEFAULT_REGISTRY
    return host, path


def _matches_host(pattern: str, host: str) -> bool:
    """A star stands within one part of the name; the port is the same."""
    pattern_name, _, pattern_port = pattern.partition(":")
    name, _, port = host.partition(":")
    parts, pattern_parts = name.split("."), pattern_name.split(".")
    return (
        pattern_port == port
        and len(parts) == len(pattern_parts)
        and all(fnmatch.fnmatchcase(*pair) for pair in zip(parts, pattern_parts, strict=True))
    )
