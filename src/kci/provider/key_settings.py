"""Which key pair signs the calls, by the environment: the guide's variables, and those of Kingsoft's own
key provider for what the guide leaves open. Pure.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TypeAlias

from kci.contract import signing
from kci.kit import secret
from kci.kube import resources
from kci.provider import aksk, credentials, options

DEFAULT_FOLDER = pathlib.Path("/var/lib/aksk")

# For --help and the reference page.
VARIABLES = (
    options.Option(
        "KCI_ACCESS_KEY",
        "with KCI_SECRET_KEY the key pair that signs KCI calls; the variables below are then not looked at",
        "none, then one of the next is needed",
        "no call is answered without a key",
    ),
    options.Option("KCI_SECRET_KEY", "the other of that pair", "none", "see there"),
    options.Option(
        "TEMP_AKSK_CM",
        "ConfigMap in kube-system with temporary keys (user-temp-aksk in a KCE cluster): ak, sk, "
        "securityToken, expired_at (UTC), cipher; new keys are used as soon as they stand there; the node's "
        "user must be allowed to get, list and watch it",
        "none",
        "the guide's",
    ),
    options.Option(
        "TEMP_AKSK_SECRET",
        "the same in a Secret; with both, it counts while the ConfigMap has no good keys",
        "none",
        "the ConfigMap is the usual place",
    ),
    options.Option(
        "AKSK_FILE_PATH",
        "folder with the files ak, sk, securityToken, expired_at, cipher, or one file with all, read again "
        "when they change; present and empty: /var/lib/aksk",
        "none",
        "for keys that somebody else puts there",
    ),
    options.Option("AK", "with SK the key pair where none of the above is given", "none", "see above"),
    options.Option("SK", "the other of that pair", "none", "see there"),
    options.Option("SECURITY_TOKEN", "goes with AK and SK if they are temporary", "none", "most are not"),
    options.Option("AKSK_ENCRYPT", "true or false: SK is encrypted, by AES", "false", "it seldom is"),
    options.Option(
        "AKSK_CIPHER_KEY",
        "opens an encrypted sk: an AES key of 16, 24 or 32 bytes, or an RSA private key (PEM, or base64 of "
        "it)",
        "none",
        "for keys that are not encrypted",
    ),
)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """One pair for as long as the program runs."""

    credentials: signing.Credentials


@dataclasses.dataclass(frozen=True)
class InFolder:
    path: pathlib.Path
    cipher_key: secret.Secret


@dataclasses.dataclass(frozen=True)
class InCluster:
    """The first object with good keys counts."""

    references: tuple[credentials.Reference, ...]
    cipher_key: secret.Secret


Keys: TypeAlias = Fixed | InFolder | InCluster


def read(environment: Mapping[str, str], problems: list[str]) -> Keys:
    """Adds to `problems` what is wrong; what comes back then is of no use."""

    def given(name: str) -> str:
        return environment.get(name, "").strip()

    cipher_key = secret.Secret(given("AKSK_CIPHER_KEY"))
    try:
        aksk.check_cipher_key(cipher_key)
    except aksk.AkskError as error:
        problems.append(str(error))
    references = tuple(
        credentials.Reference(resource, given(name))
        for name, resource in (
            ("TEMP_AKSK_CM", resources.CONFIG_MAPS),
            ("TEMP_AKSK_SECRET", resources.SECRETS),
        )
        if given(name)
    )
    if given("KCI_ACCESS_KEY") or given("KCI_SECRET_KEY"):
        return Fixed(_static(environment, problems))
    if references:
        return InCluster(references, cipher_key)
    if "AKSK_FILE_PATH" in environment:
        return InFolder(pathlib.Path(given("AKSK_FILE_PATH") or DEFAULT_FOLDER), cipher_key)
    if given("AK") or given("SK"):
        return Fixed(_by_kingsofts_names(environment, cipher_key, problems))
    problems.append(
        "there is no key pair to sign KCI calls with: set KCI_ACCESS_KEY and KCI_SECRET_KEY, or TEMP_AKSK_CM"
        " to the name of the ConfigMap with temporary keys (user-temp-aksk in a KCE cluster)"
    )
    return Fixed(signing.Credentials("", secret.Secret("")))


def _static(environment: Mapping[str, str], problems: list[str]) -> signing.Credentials:
    access_key, secret_key = (
        environment.get(name, "").strip() for name in ("KCI_ACCESS_KEY", "KCI_SECRET_KEY")
    )
    for name, value in (("KCI_ACCESS_KEY", access_key), ("KCI_SECRET_KEY", secret_key)):
        if not value:
            problems.append(f"the environment variable {name} is missing: the other of its pair is given")
    return signing.Credentials(access_key, secret.Secret(secret_key))


def _by_kingsofts_names(
    environment: Mapping[str, str], cipher_key: secret.Secret, problems: list[str]
) -> signing.Credentials:
    access_key, secret_key = environment.get("AK", "").strip(), environment.get("SK", "").strip()
    token = environment.get("SECURITY_TOKEN", "").strip()
    encrypted = environment.get("AKSK_ENCRYPT", "").strip() or "false"
    if encrypted not in {"true", "false"}:
        problems.append(f"AKSK_ENCRYPT is {encrypted!r}: write true or false")
    if not (access_key and secret_key):
        problems.append("the environment variables AK and SK are a pair: give both")
    opened = secret.Secret(secret_key)
    if encrypted == "true" and secret_key:
        try:
            opened = aksk.decrypt(secret_key, "aes", cipher_key)
        except aksk.AkskError as error:
            problems.append(f"the environment variable SK cannot be used: {error}")
    return signing.Credentials(access_key, opened, secret.Secret(token) if token else None)
