"""What a node's flags and variables say for its pods, read and checked: by the program that runs them, and by
`kci plan` for a node that it is told of. Each adds to `problems` what is wrong, and returns something usable.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

from kci.kube import models
from kci.provider import annotations as pod_annotations
from kci.provider import node_config
from kci.vnode import node

_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_MOST_SERVERS = 3


def dns_servers(name: str, value: str, problems: list[str]) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    problems += [f"{name} has {part!r}, which is no IP address" for part in parts if not is_address(part)]
    if len(parts) > _MOST_SERVERS:
        problems.append(f"{name} has {len(parts)} addresses: at most {_MOST_SERVERS} are used")
    return parts


def cluster_domain(value: str, problems: list[str]) -> str:
    domain = value.strip(".")
    if not _DOMAIN.match(domain):
        problems.append(f"--cluster-domain is {value!r}: write a DNS domain such as cluster.local")
    return domain


def security_groups(value: str, problems: list[str]) -> tuple[str, ...]:
    groups = tuple(part.strip() for part in value.split(",") if part.strip())
    if len(groups) > pod_annotations.MAX_SECURITY_GROUPS:
        problems.append(
            f"KCI_SECURITY_GROUP_IDS has {len(groups)} groups: at most {pod_annotations.MAX_SECURITY_GROUPS}"
        )
    return groups


def taints(
    environment: Mapping[str, str],
    of_file: Sequence[models.Taint] | None,
    problems: list[str],
    *,
    is_disabled: bool,
) -> tuple[models.Taint, ...]:
    """None by --disable-taint, else the file's, else the one that the environment says."""
    given = {
        field: environment.get(f"VKUBELET_TAINT_{field.upper()}", "").strip()
        for field in ("key", "value", "effect")
    }
    taint = models.Taint(
        key=given["key"] or node.DEFAULT_TAINT.key,
        # It may be empty on purpose.
        value=given["value"] if "VKUBELET_TAINT_VALUE" in environment else node.DEFAULT_TAINT.value,
        effect=given["effect"] or node.DEFAULT_TAINT.effect,
    )
    for problem in node_config.check_taint(taint):
        field, _, rest = problem.partition(" ")
        problems.append(f"VKUBELET_TAINT_{field.upper()} {rest}")
    if of_file is not None and any(given.values()):
        problems.append(
            "VKUBELET_TAINT_* and taints of --provider-config both say the node's taints: give one of them"
        )
    if is_disabled:
        return ()
    return (taint,) if of_file is None else tuple(of_file)


def is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
