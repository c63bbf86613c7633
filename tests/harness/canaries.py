"""Canaries: one unique marker in each secret input, looked for in everything that is written or shown (R57).

A marker may stand where secrets are kept on purpose (`KEPT`), and nowhere else: not in logs, events,
statuses, errors, command lines, environments, the store or a test's own report. Besides the markers, some
secrets are known by their form: signatures, tokens and keys that nobody planted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping

from kci.kube import config
from kci.stack import layout

# Below the state folder: what holds secrets because that is what it is for; with all that is below it, and
# with what its name goes on with after a `.` or `-`. A star stands for a name.
KEPT = (
    "pki",
    "kubeconfigs",
    "kubeconfig",
    "identity.json",
    "kci.env",
    "etcd",
    "node",
    "service/encryption.key",
    # Volumes and containers' own logs: what a pod is given, and what it says itself.
    "kcilet/pods/*/volumes",
    "kcilet/logs/pods",
    # Pods' root file systems, and containers' variables: in the runtime's records, and in what runs each.
    "containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots",
    "containerd/root/io.containerd.metadata.v1.bolt/meta.db",
    "containerd/state/io.containerd.runtime.v2.task/k8s.io/*/rootfs",
    "containerd/state/io.containerd.runtime.v2.task/k8s.io/*/config.json",
    # Images, which are compressed.
    "containerd/root/io.containerd.content.v1.content/blobs",
    "registry",
    # The cluster's own account of the pods' specs; `--audit` says so.
    "logs/audit",
)
_NAMES = "|".join(re.escape(kept).replace(r"\*", "[^/]+") for kept in KEPT)
_IS_KEPT = re.compile(rf"({_NAMES})([/.-]|$)")
FORMS = {
    "a signature": re.compile(rb"AWS4-HMAC-SHA256 Credential=|X-Amz-Signature=[0-9a-f]{64}"),
    "a token": re.compile(rb"eyJhbGciOi[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    # As text, and as base64 at two of three alignments.
    "a private key": re.compile(
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|LS0tLS1CRUdJTi[A-Za-z0-9]*(QUklWQVRFIEtFW|UFJJVkFURSBLRV)"
    ),
    "a kubeconfig": re.compile(rb"client-key-data"),
    # Of temporary keys, as they are sent, answered and handed on.
    "a security token": re.compile(rb"(?i)security_?-?token[\\\"',:=\s]{1,8}[A-Za-z0-9_=-]{60,}"),
    "a temporary secret key": re.compile(rb"(?i)secret_?access_?key[\\\"',:=\s]{1,8}[A-Za-z0-9_-]{40}"),
    "an address of a stream": re.compile(rb"wss?://[^\s\"]+[?&]token=[A-Za-z0-9_-]{16,}"),
}
MAX_FILE_BYTES = 64 * 2**20


@dataclasses.dataclass
class Canaries:
    """The markers of one session, by what they were put into."""

    markers: dict[str, str] = dataclasses.field(default_factory=dict)

    def plant(self, where: str) -> str:
        """A new marker; `where` is what the failure will call it."""
        marker = f"canary{secrets.token_hex(12)}"
        self.markers[marker] = where
        return marker

    def know(self, where: str, secret: str) -> None:
        """A secret that is there anyhow."""
        if secret:
            self.markers[secret] = where

    def know_line(self, state_dir: pathlib.Path) -> None:
        """The secrets that every stack has."""
        where = layout.Layout(state_dir)
        identity = json.loads(where.identity.read_bytes())
        self.know("the operator's secret key", identity["secret_key"])
        self.know("the store's key", where.encryption_key.read_text().strip())
        for name, file in (("administrator", where.kubeconfig), ("node", where.node_pki / "kubeconfig")):
            if file.exists():
                key = config.load(file).client_key_pem
                # A line of it: the text is written in several forms.
                self.know(f"the {name}'s key", key.reveal().splitlines()[1] if key else "")

    def find(self, text: bytes, *, forms: bool = True) -> Iterator[str]:
        """What of ours stands in a text, in words that do not repeat it."""
        for marker, where in self.markers.items():
            if marker.encode() in text:
                yield where
        if forms:
            yield from (f"{what} (by its form)" for what, form in FORMS.items() if form.search(text))


def search_line(
    canaries: Canaries,
    state_dir: pathlib.Path,
    *,
    shown: Mapping[str, str],
    artefacts: Iterable[pathlib.Path] = (),
) -> list[str]:
    """Every hit in a stack's files and processes, in what is `shown` (by name) and in a test's artefacts."""
    found = []
    for path in (*_outputs(state_dir), *_files(artefacts)):
        with contextlib.suppress(OSError):
            found += [f"{path} holds {what}" for what in canaries.find(path.read_bytes()[:MAX_FILE_BYTES])]
    for name, text in shown.items():
        found += [f"{name} shows {what}" for what in canaries.find(text.encode())]
    return found + list(_search_processes(canaries, state_dir))


def _outputs(state_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in _files([state_dir]):
        name = path.relative_to(state_dir).as_posix()
        if not _IS_KEPT.match(name):
            yield path


def _files(roots: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path


def _search_processes(canaries: Canaries, state_dir: pathlib.Path) -> Iterator[str]:
    """Command lines and environments of everything that belongs to the stack."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv, environ = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(state_dir).encode() not in argv:
            continue
        program = argv.replace(b"\0", b" ").decode(errors="replace")[:80]
        yield from (f"the command line of {program} holds {what}" for what in canaries.find(argv))
        # The guide gives the virtual node the operator's key by its environment; nobody else gets it.
        allowed = {"the operator's secret key"} if b"kci.provider.main" in argv else set()
        for what in canaries.find(environ):
            if what not in allowed:
                yield f"the environment of {program} holds {what}"
