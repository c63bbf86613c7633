"""What a form of deploy/least-privilege grants, what was used of it by the API server's audit log
(`kci up --audit`), and the difference.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
NODE_IDENTITY, SERVICE_ACCOUNT = (
    DEPLOY / "least-privilege" / form / "rights.yaml" for form in ("node-identity", "service-account")
)
# What ClusterRoles of Kubernetes itself let everybody do who is authenticated.
EVERYBODYS = frozenset(
    {"selfsubjectreviews.authentication.k8s.io", "selfsubjectaccessreviews.authorization.k8s.io"}
)
Rules = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource, such as `pods/status` or `leases.coordination.k8s.io`; an empty namespace or
    name is all of them.
    """

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    # The role that it comes from.
    role: str = dataclasses.field(default="", compare=False)

    def covers(self, use: Use) -> bool:
        return (
            (self.verb, self.resource) == (use.verb, use.resource)
            and self.namespace in {"", use.namespace}
            and self.name in {"", use.name}
        )

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.namespace or '*'}/{self.name or '*'}"


@dataclasses.dataclass(frozen=True)
class Use:
    """A request as the API server decided on it."""

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    is_allowed: bool

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.namespace}/{self.name}"


def documents(path: pathlib.Path, node_name: str) -> list[dict[str, Any]]:
    """The objects of a manifest, filled in."""
    return list(yaml.safe_load_all(path.read_text().replace("${nodename_string}", node_name)))


def granted(
    objects: Iterable[Mapping[str, Any]], user: str, *, known: Mapping[str, Rules] | None = None
) -> set[Right]:
    """What the bindings among the objects give a user; `known` has the rules of roles that are not there."""
    objects = list(objects)
    roles = {_key(one): one["rules"] for one in objects if one["kind"] in {"Role", "ClusterRole"}}
    roles |= {("ClusterRole", "", name): rules for name, rules in (known or {}).items()}
    found: set[Right] = set()
    for binding in (one for one in objects if "roleRef" in one):
        if user not in map(_user, binding["subjects"]):
            continue
        reference, namespace = binding["roleRef"], binding["metadata"].get("namespace", "")
        where = namespace if reference["kind"] == "Role" else ""
        rules = roles[reference["kind"], where, reference["name"]]
        found.update(rights(rules, namespace=namespace, role=reference["name"]))
    return found


def rights(rules: Rules, *, namespace: str = "", role: str = "") -> Iterator[Right]:
    """Each by itself."""
    for rule in rules:
        for group in rule.get("apiGroups", ()):
            for resource in rule.get("resources", ()):
                for name in rule.get("resourceNames") or ("",):
                    for verb in rule["verbs"]:
                        yield Right(verb, _named(group, *resource.split("/")), namespace, name, role)


def used(audit_log: pathlib.Path) -> list[Use]:
    """Every request for a resource, whoever made it."""
    lines = audit_log.read_text().splitlines(keepends=True)
    events = (json.loads(line) for line in lines if line.endswith("\n"))
    return [_to_use(event) for event in events if (event.get("objectRef") or {}).get("resource")]


def _to_use(event: Mapping[str, Any]) -> Use:
    reference = event["objectRef"]
    subresource = reference.get("subresource", "")
    return Use(
        user=event["user"]["username"],
        verb=event["verb"],
        resource=_named(
            reference.get("apiGroup", ""), reference["resource"], *([subresource] if subresource else [])
        ),
        namespace=reference.get("namespace", ""),
        name=reference.get("name", ""),
        is_allowed=event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow",
    )


def _named(group: str, plural: str, *subresource: str) -> str:
    return "/".join((f"{plural}.{group}" if group else plural, *subresource))


def _key(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]


def _user(subject: Mapping[str, str]) -> str:
    if subject["kind"] == "ServiceAccount":
        return f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
    return subject["name"]
