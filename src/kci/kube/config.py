"""How to reach a cluster and as whom: kubeconfigs read and written, everything inline.

A kubeconfig that comes as text (`parse`) comes from somebody else: it may name no file of this machine
and no program to run. One that the operator names as a file (`load`) may name files beside it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from kci.kit import environment, secret
from kci.kube import errors

SERVICE_ACCOUNT_DIRECTORY = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_ANEW = "get it anew from where it came"
# The C loader is an order of magnitude faster; PyYAML is built without it on some machines.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNSUPPORTED_USER = {
    "exec": "run a credential program",
    "auth-provider": "use an auth provider",
    "username": "use a password",
    "as": "impersonate",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """A cluster's address and one identity there. Without `ca_pem` the machine's own CAs are trusted."""

    server: str
    ca_pem: str = ""
    client_certificate_pem: str = ""
    client_key_pem: secret.Secret = secret.Secret("")  # noqa: RUF009  (frozen)
    token: secret.Secret | None = None
    # A token that somebody renews (in a pod, the kubelet): the client reads it again from time to time.
    token_file: pathlib.Path | None = None
    tls_server_name: str = ""
    insecure: bool = False


def parse(text: str) -> ClusterConfig:
    """A kubeconfig as YAML (or JSON), or that in base64; raises KubeconfigError."""
    return _parse(text, directory=None)


def load(path: pathlib.Path) -> ClusterConfig:
    """A kubeconfig file; blocking, for the start of a program. Raises KubeconfigError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.KubeconfigError(f"cannot read the kubeconfig {path}: {error}") from error
    try:
        return _parse(text, directory=path.absolute().parent)
    except errors.KubeconfigError as error:
        raise errors.KubeconfigError(f"{error} (in {path})") from error


def in_cluster(variables: Mapping[str, str] | None = None) -> ClusterConfig:
    """The identity of the ServiceAccount of the pod that we run in; blocking, for the start of a program."""
    known = environment.read() if variables is None else variables
    host, port = known.get("KUBERNETES_SERVICE_HOST", ""), known.get("KUBERNETES_SERVICE_PORT", "443")
    token_file = SERVICE_ACCOUNT_DIRECTORY / "token"
    if not host or not token_file.exists():
        raise errors.KubeconfigError(
            "cannot find a cluster: not in a pod with a service account; name a kubeconfig"
        )
    return ClusterConfig(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca_pem=(SERVICE_ACCOUNT_DIRECTORY / "ca.crt").read_text(),
        token=secret.Secret(token_file.read_text().strip()),
        token_file=token_file,
    )


def read_token(file: pathlib.Path) -> secret.Secret:
    """A token from its file; blocking. Raises UnauthorizedError: it may be there again in a moment."""
    try:
        return secret.Secret(file.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UnauthorizedError(f"cannot read the token file {file}: {error}") from error


def render(config: ClusterConfig, *, server: str | None = None) -> str:
    """A kubeconfig with everything inline, for `server` if given. The text is a secret."""
    cluster: dict[str, Any] = {"server": server or config.server}
    if config.ca_pem:
        cluster["certificate-authority-data"] = _encode(config.ca_pem)
    if config.tls_server_name:
        cluster["tls-server-name"] = config.tls_server_name
    if config.insecure:
        cluster["insecure-skip-tls-verify"] = True
    user: dict[str, Any] = {}
    if config.client_certificate_pem:
        user["client-certificate-data"] = _encode(config.client_certificate_pem)
        user["client-key-data"] = _encode(config.client_key_pem.reveal())
    if config.token is not None:
        user["token"] = config.token.reveal()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kci",
        "clusters": [{"name": "kci", "cluster": cluster}],
        "users": [{"name": "kci", "user": user}],
        "contexts": [{"name": "kci", "context": {"cluster": "kci", "user": "kci"}}],
    }
    return yaml.safe_dump(document, sort_keys=False)


def _parse(text: str, *, directory: pathlib.Path | None) -> ClusterConfig:
    document = _document(text)
    context = _context(document)
    cluster = _named(document, "clusters", "cluster", str(context.get("cluster", "")))
    user = _named(document, "users", "user", str(context.get("user", ""))) if context.get("user") else {}
    server = str(cluster.get("server", ""))
    if not re.match(r"https?://[^/\s]+", server):
        raise errors.KubeconfigError(
            f"cannot use a kubeconfig whose server is {server!r}: it needs https://host:port"
        )
    for key, meaning in _UNSUPPORTED_USER.items():
        if user.get(key):
            raise errors.KubeconfigError(
                f"cannot use a kubeconfig that wants to {meaning} (users[].user.{key}): "
                "use a client certificate or a token"
            )
    if cluster.get("proxy-url"):
        raise errors.KubeconfigError(
            "cannot use a kubeconfig with clusters[].cluster.proxy-url: name a server that answers directly"
        )
    return ClusterConfig(
        server=server.rstrip("/"),
        ca_pem=_pem(cluster, "certificate-authority", directory),
        client_certificate_pem=_pem(user, "client-certificate", directory),
        client_key_pem=secret.Secret(_pem(user, "client-key", directory)),
        token=_token(user, directory),
        token_file=_file(user, "tokenFile", directory),
        tls_server_name=str(cluster.get("tls-server-name", "")),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
    )


def _document(text: str) -> Mapping[str, Any]:
    # Every kubeconfig has a colon, base64 has none.
    if re.fullmatch(r"[A-Za-z0-9+/=\s]+", text):
        try:
            text = base64.b64decode(text, validate=False).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise errors.KubeconfigError(
                f"cannot read a kubeconfig: neither YAML nor base64; {_ANEW}"
            ) from error
    try:
        document = yaml.load(text, Loader=_LOADER)  # noqa: S506  (a safe loader)
    except yaml.YAMLError as error:
        # YAML's own text quotes the lines, which may hold a key.
        raise errors.KubeconfigError(f"cannot read a kubeconfig: it is no YAML; {_ANEW}") from error
    if not isinstance(document, dict):
        raise errors.KubeconfigError(
            f"cannot read a kubeconfig: it is no mapping with clusters and users; {_ANEW}"
        )
    return document


def _context(document: Mapping[str, Any]) -> Mapping[str, Any]:
    current = document.get("current-context")
    contexts = document.get("contexts") or []
    if not current and isinstance(contexts, list) and len(contexts) == 1 and isinstance(contexts[0], dict):
        current = contexts[0].get("name")
    if not current:
        raise errors.KubeconfigError("cannot use a kubeconfig without current-context: set one")
    return _named(document, "contexts", "context", str(current))


def _named(document: Mapping[str, Any], group: str, inner: str, name: str) -> Mapping[str, Any]:
    for entry in document.get(group) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            found = entry.get(inner)
            return found if isinstance(found, dict) else {}
    raise errors.KubeconfigError(f"cannot use a kubeconfig: it has no {name!r} among its {group}")


def _pem(holder: Mapping[str, Any], key: str, directory: pathlib.Path | None) -> str:
    """Inline data wins over a file, as in client-go."""
    data = holder.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise errors.KubeconfigError(
                f"cannot use a kubeconfig: {key}-data is no base64 of PEM"
            ) from error
    file = _file(holder, key, directory)
    return "" if file is None else _read(file, key)


def _token(user: Mapping[str, Any], directory: pathlib.Path | None) -> secret.Secret | None:
    if user.get("token"):
        return secret.Secret(str(user["token"]))
    file = _file(user, "tokenFile", directory)
    return None if file is None else secret.Secret(_read(file, "tokenFile").strip())


def _file(holder: Mapping[str, Any], key: str, directory: pathlib.Path | None) -> pathlib.Path | None:
    if not holder.get(key):
        return None
    if directory is None:
        raise errors.KubeconfigError(
            f"cannot use a kubeconfig that names a file ({key}): put its content inline "
            "(kubectl config view --raw --flatten)"
        )
    return directory / str(holder[key])


def _read(file: pathlib.Path, key: str) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.KubeconfigError(
            f"cannot read {file}, which the kubeconfig names as {key}: {error}"
        ) from error


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
