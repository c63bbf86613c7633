"""What the kubelet API is served with: its certificate, and the CA by which it knows its clients.

Both may come later than the server, and change while it runs: each new connection takes what is there then,
and those that are open go on. Until both are there no handshake succeeds, as at a kubelet that waits for its
serving certificate (k8s.io/kubernetes v1.36 pkg/kubelet/certificate): a certificate that nobody issued is
never shown. Sessions are not resumed, for a ticket would outlive the CA that its client came by.
"""

from __future__ import annotations

import pathlib
import ssl

from kci.kit import errors
from kci.kube import transport


class Tls:
    """`context` is for the listener; it is not what connections end up with."""

    def __init__(self) -> None:
        self.context = _bare()
        self.context.sni_callback = self._choose
        self._certificate_pem = b""
        self._key_pem = b""
        self._client_ca_pem = ""
        self._current: ssl.SSLContext | None = None

    @property
    def is_complete(self) -> bool:
        return self._current is not None

    def use_certificate(self, certificate_pem: bytes, key_pem: bytes) -> None:
        """For connections from now on. ValueError if they are none, and nothing changes."""
        self._current = _context(certificate_pem, key_pem, self._client_ca_pem)
        self._certificate_pem, self._key_pem = certificate_pem, key_pem

    def use_client_ca(self, client_ca_pem: str) -> None:
        """For connections from now on. ValueError if it is none, and nothing changes."""
        self._current = _context(self._certificate_pem, self._key_pem, client_ca_pem)
        self._client_ca_pem = client_ca_pem

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        """Called after each client's first message, whether that names a host or not."""
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None


def load_client_ca(tls: Tls, file: pathlib.Path) -> None:
    """Blocking. UserError if the file is no CA."""
    try:
        tls.use_client_ca(file.read_text())
    except (OSError, ValueError) as error:
        raise _unusable(error, file) from error


def load_certificate(tls: Tls, certificate_file: pathlib.Path, key_file: pathlib.Path) -> None:
    """Blocking. UserError if the files are no certificate and its key."""
    try:
        tls.use_certificate(certificate_file.read_bytes(), key_file.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(error, certificate_file, key_file) from error


def _unusable(error: Exception, *files: pathlib.Path) -> errors.UserError:
    named = ", ".join(map(str, files))
    return errors.UserError(f"cannot serve the kubelet API with these certificates ({named}): {error}")


def _context(certificate_pem: bytes, key_pem: bytes, client_ca_pem: str) -> ssl.SSLContext | None:
    """None while one of the two is missing; ValueError (SSLError is one) if one is no good."""
    context = _bare()
    if client_ca_pem:
        try:
            context.load_verify_locations(cadata=client_ca_pem)
        except ssl.SSLError as error:
            raise ValueError(f"the client CA cannot be read: {error}") from error
    if certificate_pem:
        transport.load_identity(context, certificate_pem.decode(), key_pem.decode())
    return context if certificate_pem and client_ca_pem else None


def _bare() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # A client may come without a certificate (it has a token then), but not with a false one.
    context.verify_mode = ssl.CERT_OPTIONAL
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context
