"""The kinds of objects we talk about: where each lives in the API and which type it is decoded to."""

from __future__ import annotations

import dataclasses
import functools
import urllib.parse
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from kci.kube import errors, models

T = TypeVar("T")
# Kinds that we create or hand on, but of which no program reads more than a field or two.
Raw: TypeAlias = dict[str, Any]


class ListBody(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list as the API sends it; some servers send null for an empty one."""

    metadata: models.ListMeta
    items: tuple[T, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Resource(Generic[T]):
    group: str
    version: str
    plural: str
    kind: str
    type: type[T]
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @functools.cached_property
    def decoder(self) -> msgspec.json.Decoder[T]:
        return msgspec.json.Decoder(self.type)

    @functools.cached_property
    def list_decoder(self) -> msgspec.json.Decoder[ListBody[T]]:
        return msgspec.json.Decoder(ListBody[self.type])  # type: ignore[name-defined]  # known at run time

    def collection_path(self, namespace: str = "") -> str:
        """The path of all objects, of one namespace or (without one) of all."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if namespace and self.namespaced:
            return f"{root}/namespaces/{_segment(namespace)}/{self.plural}"
        return f"{root}/{self.plural}"

    def object_path(self, name: str, namespace: str = "", subresource: str = "") -> str:
        """The path of one object. Refuses what would address something else, such as an empty name,
        with which a delete would mean the whole collection.
        """
        if self.namespaced and not namespace:
            raise errors.InvalidError(f"cannot address {self.plural} {name!r} without a namespace")
        path = f"{self.collection_path(namespace)}/{_segment(name)}"
        return f"{path}/{subresource}" if subresource else path


def _segment(name: str) -> str:
    if name in {"", ".", ".."}:
        raise errors.InvalidError(f"cannot use {name!r} as the name of an object")
    return urllib.parse.quote(name, safe="")


PODS = Resource("", "v1", "pods", "Pod", models.Pod)
NODES = Resource("", "v1", "nodes", "Node", models.Node, namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", models.ConfigMap)
SECRETS = Resource("", "v1", "secrets", "Secret", models.Secret)
EVENTS = Resource("", "v1", "events", "Event", models.Event)
SERVICES = Resource("", "v1", "services", "Service", models.Service)
SERVICE_ACCOUNTS = Resource[Raw]("", "v1", "serviceaccounts", "ServiceAccount", Raw)
NAMESPACES = Resource[Raw]("", "v1", "namespaces", "Namespace", Raw, namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", models.Lease)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", models.EndpointSlice)
CERTIFICATE_SIGNING_REQUESTS = Resource(
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest",
    models.CertificateSigningRequest,
    namespaced=False,
)
DEPLOYMENTS = Resource[Raw]("apps", "v1", "deployments", "Deployment", Raw)
API_SERVICES = Resource[Raw](
    "apiregistration.k8s.io", "v1", "apiservices", "APIService", Raw, namespaced=False
)
CLUSTER_ROLES = Resource[Raw](
    "rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", Raw, namespaced=False
)
CLUSTER_ROLE_BINDINGS = Resource[Raw](
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", Raw, namespaced=False
)
