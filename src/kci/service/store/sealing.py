"""Secrets at rest: AES-256-GCM, each bound to whom it belongs, so that a row cannot borrow another's."""

from __future__ import annotations

import os

from cryptography import exceptions
from cryptography.hazmat.primitives.ciphers import aead

from kci.kit import secret

KEY_BYTES = 32
_VERSION = b"\x01"
_NONCE_BYTES = 12


class SealError(Exception):
    """A sealed value does not open: another key, another owner, or damage."""


class Sealer:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = aead.AESGCM(key)

    def seal(self, value: secret.Secret, *, owner: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, value.reveal().encode(), _VERSION + owner.encode())
        return _VERSION + nonce + sealed

    def open(self, sealed: bytes, *, owner: str) -> secret.Secret:
        """Raises SealError."""
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return secret.Secret(self._cipher.decrypt(nonce, body, sealed[:1] + owner.encode()).decode())
        except (exceptions.InvalidTag, ValueError) as error:
            raise SealError(f"cannot open a sealed value of {owner}") from error
