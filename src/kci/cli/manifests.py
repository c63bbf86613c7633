"""Manifests as users write them, to the pods that would come of them. Pure.

Kinds that make no pods are passed over. What is no valid pod comes as a refusal in its place, so that one
mistake hides nothing of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import yaml

from kci.kit import errors
from kci.kube import models
from kci.provider.plan import preview, validity

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
# The ways to what has annotations of its own and makes no pod, where it is more than the object itself.
_OUTER: Mapping[str, tuple[tuple[str, ...], ...]] = {"CronJob": ((), ("spec", "jobTemplate"))}
# The way to the spec of the Job that a kind is or makes.
_JOBS = {"Job": ("spec",), "CronJob": ("spec", "jobTemplate", "spec")}
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
    path = _TEMPLATES.get(kind, ())
    try:
        pod = msgspec.convert(_without_nulls(template), models.Pod)
    except msgspec.ValidationError as error:
        return _invalid(kind, namespace, name, [*_unquoted(template)] or [_problem(str(error))])
    problems = validity.problems(pod.spec)
    if not pod.spec.containers:
        problems.append(validity.Problem("spec.containers", "it has no containers"))
    if problems:
        return _invalid(kind, namespace, name, problems)
    owners = (models.OwnerReference(kind=kind, name=name, controller=True),) if path else ()
    pod = msgspec.structs.replace(
        pod,
        metadata=msgspec.structs.replace(
            pod.metadata, name=name, namespace=namespace, owner_references=owners
        ),
    )
    return preview.Subject(
        kind=kind,
        pod=pod,
        replicas=_replicas(kind, outer),
        template=".".join(path),
        outer_annotations=_outer_annotations(kind, outer),
    )


def _replicas(kind: str, outer: Mapping[str, Any]) -> int:
    """How many pods of it there are at once."""
    if kind in _JOBS:
        job = _inside(outer, _JOBS[kind])
        counts = [job.get("parallelism", 1), job.get("completions")]
        return min((count for count in counts if isinstance(count, int)), default=1)
    replicas = _dict(outer.get("spec")).get("replicas")
    return replicas if kind in _REPLICATED and isinstance(replicas, int) else 1


def _outer_annotations(kind: str, outer: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """By where they stand."""
    found = {}
    for way in _OUTER.get(kind, ((),)) if kind in _TEMPLATES else ():
        annotations = _dict(_inside(outer, (*way, "metadata")).get("annotations"))
        found[".".join((*way, "metadata", "annotations"))] = {
            str(key): str(value) for key, value in annotations.items()
        }
    return found


def _unquoted(template: Any) -> Iterator[validity.Problem]:
    """Annotations and labels that YAML reads as something else than a string."""
    meta = _dict(_dict(template).get("metadata"))
    for place in ("annotations", "labels"):
        for key, value in _dict(meta.get(place)).items():
            if isinstance(value, bool | int | float):
                shown = str(value).lower() if isinstance(value, bool) else str(value)
                yield validity.Problem(
                    f"metadata.{place}[{key}]", f'{shown} is no string: write "{shown}", in quotes'
                )


def _problem(sentence: str) -> validity.Problem:
    """From msgspec's words."""
    match = _PATH.search(sentence)
    return validity.Problem(match["path"] if match else "", _PATH.sub("", sentence))


def _invalid(kind: str, namespace: str, name: str, problems: Iterable[validity.Problem]) -> preview.Preview:
    return preview.Preview(
        kind=kind,
        namespace=namespace,
        name=name,
        refused=tuple(
            preview.Refused(
                field=one.field,
                reason=preview.INVALID,
                message=f"{one.field or 'the pod'}: {one.message}; the API server would not take it, "
                "correct it",
            )
            for one in problems
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
