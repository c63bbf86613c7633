"""Quantities of a pod that the API server would not take. Pure.

A pod of the cluster has passed there; one that is only a manifest has not, and what it says wrongly must not
be counted. Source of the rules: k8s.io/kubernetes v1.36 pkg/apis/core/validation
(ValidateResourceRequirements, validateEmptyDirVolumeSource).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from kci.kube import errors, models, quantity


@dataclasses.dataclass(frozen=True)
class Problem:
    """A field, and in a sentence what is wrong with it."""

    field: str
    message: str


def problems(spec: models.PodSpec) -> list[Problem]:
    """All of them, in the order of the fields."""
    return [*_of_spec(spec)]


def _of_spec(spec: models.PodSpec) -> Iterator[Problem]:
    for number, volume in enumerate(spec.volumes):
        if volume.empty_dir is not None and volume.empty_dir.size_limit is not None:
            yield from _of_value(f"spec.volumes[{number}].emptyDir.sizeLimit", volume.empty_dir.size_limit)
    for kind, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
        for number, container in enumerate(containers):
            yield from _of_resources(f"spec.{kind}[{number}].resources", container.resources)
    if spec.resources:
        yield from _of_resources("spec.resources", spec.resources)


def _of_resources(path: str, resources: models.ResourceRequirements) -> Iterator[Problem]:
    wrong = [
        *_of_values(f"{path}.limits", resources.limits),
        *_of_values(f"{path}.requests", resources.requests),
    ]
    yield from wrong
    if wrong:
        return
    for name in sorted(resources.requests.keys() & resources.limits.keys()):
        asked, most = resources.requests[name], resources.limits[name]
        if quantity.parse(asked) > quantity.parse(most):
            yield Problem(f"{path}.requests[{name}]", f"the request {asked} is more than the limit {most}")


def _of_values(path: str, values: Mapping[str, str | int | float]) -> Iterator[Problem]:
    for name in sorted(values):
        yield from _of_value(f"{path}[{name}]", values[name])


def _of_value(field: str, value: str | float) -> Iterator[Problem]:
    try:
        if quantity.parse(value) < 0:
            yield Problem(field, f"{value} is less than nothing")
    except errors.InvalidError as error:
        yield Problem(field, str(error))
