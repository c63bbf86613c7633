"""The guide's pod annotations, read and checked. Pure. They are on the pod, not on its Deployment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from kci.provider import settings
from kci.vnode import provider

CPU = "k8s.ksyun.com/kci-instance-cpu"
MEMORY = "k8s.ksyun.com/kci-instance-memory"
SECURITY_GROUPS = "k8s.ksyun.com/kci-security-group-id"
SUBNET = "k8s.ksyun.com/kci-subnet-id"
KUBE_PROXY = "k8s.ksyun.com/kci-kube-proxy-enabled"

REASON = "InvalidAnnotation"
MAX_CORES = 256.0
MAX_MEMORY_GB = 512.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a pod asks of KCI beyond what its spec says; None or empty where it says nothing."""

    cores: float | None = None
    memory_gb: float | None = None
    subnet_id: str = ""
    security_group_ids: tuple[str, ...] = ()
    kube_proxy: bool | None = None


def read(annotations: Mapping[str, str]) -> tuple[Wishes, list[provider.Refusal]]:
    """The wishes, and what is wrong with them."""
    problems: list[str] = []
    cores = _number(annotations, CPU, MAX_CORES, "cores", problems)
    memory_gb = _number(annotations, MEMORY, MAX_MEMORY_GB, "GiB", problems)
    if (CPU in annotations) != (MEMORY in annotations):
        given, missing = (CPU, MEMORY) if CPU in annotations else (MEMORY, CPU)
        problems.append(f"{given} is set without {missing}: set both, or neither")
    groups = tuple(part.strip() for part in annotations.get(SECURITY_GROUPS, "").split(",") if part.strip())
    if SECURITY_GROUPS in annotations and not 1 <= len(groups) <= settings.MAX_SECURITY_GROUPS:
        problems.append(f"{SECURITY_GROUPS} has {len(groups)} security groups: name 1 to 3")
    subnet_id = annotations.get(SUBNET, "").strip()
    if SUBNET in annotations and (not subnet_id or "," in subnet_id):
        problems.append(f"{SUBNET} must name one subnet")
    wishes = Wishes(
        cores=cores,
        memory_gb=memory_gb,
        subnet_id=subnet_id,
        security_group_ids=groups,
        kube_proxy=_boolean(annotations, KUBE_PROXY, problems),
    )
    return wishes, [provider.Refusal(REASON, f"metadata.annotations: {problem}") for problem in problems]


def _number(
    annotations: Mapping[str, str], key: str, most: float, unit: str, problems: list[str]
) -> float | None:
    text = annotations.get(key)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        problems.append(f"{key} is {text!r}: write a number of {unit}, more than 0 and at most {most:g}")
        return None
    return math.ceil(round(value * 1000, 6)) / 1000


def _boolean(annotations: Mapping[str, str], key: str, problems: list[str]) -> bool | None:
    text = annotations.get(key)
    if text is None:
        return None
    if text.strip().lower() not in {"true", "false"}:
        problems.append(f"{key} is {text!r}: write 'true' or 'false'")
    return text.strip().lower() == "true"
