"""Which kubeconfigs stand for the same identity, and which of two is the newer one. Pure."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import urllib.parse

import msgspec
from cryptography import x509

from kci.kube import config as configs
from kci.kube import errors as kube_errors
from kci.kube import transport
from kci.source import errors, port

NODE_PREFIX = "system:node:"


@dataclasses.dataclass(frozen=True)
class Access:
    """A kubeconfig, read. `user` tells identities apart; it is no secret."""

    config: configs.ClusterConfig
    user: str
    # When the credential was issued (Unix seconds); 0 if it does not say.
    issued_at_s: float

    @property
    def endpoint(self) -> port.Endpoint:
        return _endpoint(self.config)

    def is_newer_than(self, other: Access) -> bool:
        """Of two the one issued later; where neither says, the one that came later, which is this."""
        return self.config != other.config and self.issued_at_s >= other.issued_at_s


# Every group of a node carries a kubeconfig, mostly the same one.
@functools.lru_cache(maxsize=64)
def read(kubeconfig: str) -> Access:
    """Raises RefusedError for a kubeconfig that cannot be used."""
    try:
        config = configs.parse(kubeconfig)
        _ = transport.tls_context(config), _endpoint(config)
        if config.client_certificate_pem:
            certificate = x509.load_pem_x509_certificate(config.client_certificate_pem.encode())
            names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            user = str(names[0].value) if names else certificate.subject.rfc4514_string()
            return Access(config, user, certificate.not_valid_before_utc.timestamp())
    except (kube_errors.KubeconfigError, ValueError) as error:
        raise errors.RefusedError(f"cannot use the group's kubeconfig: {error}") from error
    claims = _claims(config.token.reveal() if config.token is not None else "")
    return Access(config, claims.sub or "unknown", claims.iat)


def _endpoint(config: configs.ClusterConfig) -> port.Endpoint:
    parts = urllib.parse.urlsplit(config.server)
    return port.Endpoint(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


class _Claims(msgspec.Struct, frozen=True):
    sub: str = ""
    iat: float = 0.0


def _claims(token: str) -> _Claims:
    """What a ServiceAccount's token (a JWT) says of itself; the API server checks it, not we."""
    parts = token.split(".")
    if len(parts) != 3:
        return _Claims()
    try:
        body = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(body, type=_Claims)
    except (binascii.Error, msgspec.DecodeError):
        return _Claims()


def node_name(access: Access, wanted: str) -> str:
    """The node whose pods are followed: as the group says, else the node that the identity is."""
    if wanted:
        return wanted
    if access.user.startswith(NODE_PREFIX):
        return access.user.removeprefix(NODE_PREFIX)
    raise errors.RefusedError("cannot follow the group's pod: the group names no node (label node-name)")
