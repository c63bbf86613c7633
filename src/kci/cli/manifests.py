"""Manifests as users write them, to the pods that would come of them. Pure.

Kinds that make no pods are passed over. What is no valid pod comes as a refusal in its place, so that one
mistake hides nothing of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from kci.kit import errors
from kci.kube import models
from kci.provider.plan import preview

# The way from an object to its pod template.
_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "PodTemplate": ("template",),
}
_REPLICATED = frozenset(("Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"))
# How msgspec ends a sentence: the path of what it could not take.
_PATH = re.compile(r"\s+- at `\$\.?(?P<path>[^`]*)`$")

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):  # type: ignore[misc]  # chosen when the module is loaded
    """Without dates: to Kubernetes they are strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _BaseLoader.yaml_implicit_resolvers.items()
}

Found = preview.Subject | preview.Preview


def read(text: str, name: str) -> list[Found]:
    """A subject for each pod (or each set of pods that are alike); a preview where there is no valid pod.
    UserError if the text is no YAML of Kubernetes objects.
    """
    try:
        documents = list(yaml.load_all(text, _Loader))
    except yaml.YAMLError as error:
        raise errors.UserError(f"cannot read {name} as YAML: {error}") from error
    return [
        found
        for number, document in enumerate(documents, start=1)
        if document is not None
        for found in _of_object(document, f"document {number} of {name}")
    ]


def _of_object(value: Any, where: str) -> Iterator[Found]:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise errors.UserError(f"cannot take {where} for a Kubernetes object: it has no kind")
    kind = value["kind"]
    if kind == "Pod":
        yield _of_pod(kind, value, value)
    elif kind in _TEMPLATES:
        yield _of_pod(kind, value, _inside(value, _TEMPLATES[kind]))
    elif kind.endswith("List"):
        for number, item in enumerate(_list(value.get("items")), start=1):
            # The items of a DeploymentList and its like need no kind of their own.
            named = (
                {"kind": kind.removesuffix("List"), **item}
                if kind != "List" and isinstance(item, dict)
                else item
            )
            yield from _of_object(named, f"item {number} of {where}")


def _of_pod(kind: str, outer: Mapping[str, Any], template: Any) -> Found:
    meta = _dict(outer.get("metadata"))
    name = str(meta.get("name") or meta.get("generateName") or "")
    namespace = str(meta.get("namespace") or "default")
    try:
        pod = msgspec.convert(_without_nulls(template), models.Pod)
    except msgspec.ValidationError as error:
        return _invalid(kind, namespace, name, str(error))
    if not pod.spec.containers:
        return _invalid(kind, namespace, name, "it has no containers - at `$.spec.containers`")
    owners = (models.OwnerReference(kind=kind, name=name, controller=True),) if template is not outer else ()
    pod = msgspec.structs.replace(
        pod,
        metadata=msgspec.structs.replace(
            pod.metadata, name=name, namespace=namespace, owner_references=owners
        ),
    )
    replicas = _dict(outer.get("spec")).get("replicas")
    annotations = _dict(meta.get("annotations")) if template is not outer else {}
    return preview.Subject(
        kind=kind,
        pod=pod,
        replicas=replicas if kind in _REPLICATED and isinstance(replicas, int) else 1,
        outer_annotations={str(key): str(value) for key, value in annotations.items()},
    )


def _invalid(kind: str, namespace: str, name: str, sentence: str) -> preview.Preview:
    match = _PATH.search(sentence)
    field = match["path"] if match else ""
    why = _PATH.sub("", sentence)
    remedy = "write its values in quotes" if field.startswith("metadata.annotations") else "correct it"
    return preview.Preview(
        kind=kind,
        namespace=namespace,
        name=name,
        refused=(
            preview.Refused(
                field=field,
                reason=preview.INVALID,
                message=f"{field or 'the pod'}: {why}; the API server would not take it, {remedy}",
            ),
        ),
    )


def _inside(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = _dict(value).get(name)
    return _dict(value)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _without_nulls(value: Any) -> Any:
    """To the API server an absent value and a null one are the same."""
    if isinstance(value, dict):
        return {name: _without_nulls(below) for name, below in value.items() if below is not None}
    if isinstance(value, list):
        return [_without_nulls(below) for below in value]
    return value
