"""Secrets at rest: AES-256-GCM, each bound to whom it belongs, so that a row cannot borrow another's. And
their fingerprints, which tell nothing to who has no key.
"""

from __future__ import annotations

import hmac
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
        # Not the cipher's own: a key has one use.
        self._fingerprint_key = hmac.digest(key, b"fingerprint", "sha256")

    def seal(self, value: secret.Secret, *, owner: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, value.reveal().encode(), _VERSION + owner.encode())
        return _VERSION + nonce + sealed

    def fingerprint(self, value: secret.Secret, *, owner: str) -> str:
        """64 hex digits, equal for equal values of one owner."""
        content = f"{owner}\0{value.reveal()}".encode()
        return hmac.digest(self._fingerprint_key, content, "sha256").hex()

    def open(self, sealed: bytes, *, owner: str) -> secret.Secret:
        """Raises SealError."""
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return secret.Secret(self._cipher.decrypt(nonce, body, sealed[:1] + owner.encode()).decode())
        except (exceptions.InvalidTag, ValueError) as error:
            raise SealError(f"cannot open a sealed value of {owner}") from error
