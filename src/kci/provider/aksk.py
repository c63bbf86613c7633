"""Kingsoft's form of a key pair (`ak`, `sk`, `securityToken`, `expired_at`, `cipher`), as it stands in a
ConfigMap, a Secret or a folder, and the rules of its life. Pure.

Only `sk` is ever encrypted: by `RSA`, or by what any other word but `none` stands for, AES-CBC whose
initialization vector is the key's own first 16 bytes. Times without a zone are UTC. Behaviour after
github.com/kingsoftcloud/aksk-provider (7bf79d6), with two differences: padding is checked, so that a wrong
key is an error instead of a wrong `sk`; and keys without an end replace others at any time.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import re
from collections.abc import Iterable, Mapping

import msgspec
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kci.contract import signing
from kci.kit import secret

FIELDS = ("ak", "sk", "securityToken", "expired_at", "cipher")
# How long before their end others are looked for: a call and its way take some of it.
MARGIN = datetime.timedelta(seconds=60)
NEVER = datetime.timedelta(days=36500)

_AES_KEY_BYTES = (16, 24, 32)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)?\Z", re.ASCII)


class AkskError(ValueError):
    """What stands there is no key pair; the text says which part, and never shows it."""


@dataclasses.dataclass(frozen=True)
class Keys:
    """A key pair and when it ends."""

    credentials: signing.Credentials
    expires_at: datetime.datetime
    # What is odd about them, though they may be used; empty if nothing is.
    warning: str = ""

    def is_good(self, now: datetime.datetime) -> bool:
        return now < self.expires_at

    def ends_soon(self, now: datetime.datetime) -> bool:
        return now >= self.expires_at - MARGIN


def read(
    fields: Mapping[str, str], cipher_key: secret.Secret, *, now: datetime.datetime, strict_end: bool
) -> Keys:
    """Raises AkskError. An `expired_at` that cannot be read is an error if `strict_end`; else such keys count
    as without an end, as they do where there are no others yet.
    """
    given = {name: fields.get(name, "").strip() for name in FIELDS}
    if missing := [name for name in ("ak", "sk") if not given[name]]:
        raise AkskError(f"{' and '.join(missing)} is missing")
    secret_key = decrypt(given["sk"], given["cipher"], cipher_key)
    token = given["securityToken"]
    expires_at, warning = now + NEVER, ""
    try:
        expires_at = _read_end(given["expired_at"]) or expires_at
    except AkskError as error:
        if strict_end:
            raise
        warning = f"{error}; they are used as if they had no end"
    credentials = signing.Credentials(given["ak"], secret_key, secret.Secret(token) if token else None)
    return Keys(credentials, expires_at, warning)


def read_text(text: str) -> dict[str, str]:
    """The fields of the older forms, one file for all: a JSON object, or lines of `name: value`."""
    if text.lstrip().startswith("{"):
        try:
            found = msgspec.json.decode(text, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise AkskError("it is no JSON object") from error
        return {name: str(value) for name, value in found.items() if value is not None}
    parts = (line.partition(":") for line in text.splitlines())
    return {name.strip('" '): value.strip('", ') for name, _, value in parts}


def choose(found: Iterable[Keys], now: datetime.datetime) -> Keys | None:
    """The first with life beyond the margin, else the one that ends last; None if all have ended."""
    good = [keys for keys in found if keys.is_good(now)]
    lasting = (keys for keys in good if not keys.ends_soon(now))
    return next(lasting, max(good, key=lambda keys: keys.expires_at, default=None))


def decode_secret(data: Mapping[str, str]) -> dict[str, str]:
    """The fields of a Secret, whose values are base64."""
    found = {}
    for name in FIELDS:
        if name in data:
            try:
                found[name] = base64.b64decode(data[name], validate=True).decode()
            except (binascii.Error, UnicodeDecodeError) as error:
                raise AkskError(f"{name} is no text in base64") from error
    return found


# ---- ciphers ------------------------------------------------------------------------------------


def decrypt(text: str, cipher: str, key: secret.Secret) -> secret.Secret:
    """The `sk` as it is used."""
    if cipher.lower() in {"", "none"}:
        return secret.Secret(text)
    if not key:
        raise AkskError(f"sk is encrypted ({cipher}), and AKSK_CIPHER_KEY does not give the key for it")
    try:
        sealed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise AkskError(f"sk is encrypted ({cipher}), but no base64") from error
    plain = _decrypt_rsa(sealed, key) if cipher.upper() == "RSA" else _decrypt_aes(sealed, key)
    try:
        opened = plain.decode("ascii")
    except UnicodeDecodeError:
        opened = ""
    # Either padding fits a wrong key now and then, or gives noise for one; no key pair is noise.
    if not opened or not opened.isprintable():
        raise _wrong_key()
    return secret.Secret(opened)


def check_cipher_key(key: secret.Secret) -> None:
    """AkskError for what is a key of neither cipher; an empty one is for who has nothing encrypted."""
    if key and len(key.reveal().encode()) not in _AES_KEY_BYTES:
        _ = _load_rsa(key)


def _decrypt_aes(sealed: bytes, key: secret.Secret) -> bytes:
    raw = key.reveal().encode()
    if len(raw) not in _AES_KEY_BYTES:
        raise AkskError(f"sk is encrypted by AES, and AKSK_CIPHER_KEY has {len(raw)} bytes, not 16, 24 or 32")
    # An older way of Kingsoft's: who knows the key knows the vector. It is theirs to change.
    opener = Cipher(algorithms.AES(raw), modes.CBC(raw[:16])).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    try:
        return unpadder.update(opener.update(sealed) + opener.finalize()) + unpadder.finalize()
    except ValueError as error:
        raise _wrong_key() from error


def _decrypt_rsa(sealed: bytes, key: secret.Secret) -> bytes:
    try:
        return _load_rsa(key).decrypt(sealed, rsa_padding.PKCS1v15())
    except ValueError as error:
        if isinstance(error, AkskError):
            raise
        raise _wrong_key() from error


def _load_rsa(key: secret.Secret) -> rsa.RSAPrivateKey:
    """PEM, or base64 of it."""
    text = key.reveal().encode()
    if b"-----BEGIN" not in text:
        try:
            text = base64.b64decode(b"".join(text.split()), validate=True)
        except binascii.Error:
            text = b""
    try:
        loaded = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, rsa.RSAPrivateKey):
        # Without a cause: a parser's text may show what it read.
        raise AkskError(
            "AKSK_CIPHER_KEY is neither an AES key of 16, 24 or 32 bytes nor an RSA private key in PEM"
        ) from None
    return loaded


def _wrong_key() -> AkskError:
    return AkskError("sk does not open with the key of AKSK_CIPHER_KEY")


def _read_end(text: str) -> datetime.datetime | None:
    """None if none is given."""
    if not text:
        return None
    try:
        if not _TIME.match(text):
            raise ValueError
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise AkskError("expired_at is no time such as 2026-01-31T23:59:59 (UTC)") from None
    return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment
