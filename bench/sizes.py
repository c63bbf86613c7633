"""What it costs to choose a pod's size: annotations and containers read, summed, looked up in the table.
`python bench/sizes.py` measures this alone; it needs nothing.

Each pod is another one, as on a node; what is remembered is the quantities' texts, of which pods have few.
"""

from __future__ import annotations

import json
import statistics
import time

from kci.contract import packages
from kci.kube import models
from kci.provider import annotations as pod_annotations
from kci.provider.plan import size

PODS = 2_000
ROUNDS = 5
_TEXTS = ("100m", "250m", "500m", "1", "2"), ("64Mi", "128Mi", "1Gi", "1.5Gi", "2Gi")
_BY_ANNOTATION = {pod_annotations.CPU: "3", pod_annotations.MEMORY: "5", "example.com/team": "web"}


def _pod(number: int, *, containers: int, notes: dict[str, str]) -> models.Pod:
    def container(name: str, step: int) -> models.Container:
        texts: dict[str, str | int | float] = {
            resource: known[(number + step) % len(known)]
            for resource, known in zip(("cpu", "memory"), _TEXTS, strict=True)
        }
        return models.Container(name=name, resources=models.ResourceRequirements(limits=texts))

    spec = models.PodSpec(
        containers=tuple(container(f"c{step}", step) for step in range(containers)),
        init_containers=tuple(container(f"i{step}", step) for step in range(containers // 2)),
    )
    return models.Pod(metadata=models.ObjectMeta(name=f"web-{number}", annotations=notes), spec=spec)


def _one_us(pods: list[models.Pod]) -> float:
    began = time.perf_counter()
    for pod in pods:
        wishes, _ = pod_annotations.read(pod.metadata.annotations)
        size.choose(pod, wishes, packages.STANDARD)
    return (time.perf_counter() - began) / len(pods) * 1e6


def measure() -> dict[str, float]:
    """Microseconds for one pod, the median of some rounds: by what a pod asks for."""
    kinds: dict[str, tuple[int, dict[str, str]]] = {
        "one_container": (1, {}),
        "five_containers_two_init": (5, {}),
        "annotations_rounded": (1, _BY_ANNOTATION),
    }
    measured = {}
    for kind, (containers, notes) in kinds.items():
        pods = [_pod(number, containers=containers, notes=notes) for number in range(PODS)]
        measured[kind] = round(statistics.median(_one_us(pods) for _ in range(ROUNDS)), 1)
    return measured


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
