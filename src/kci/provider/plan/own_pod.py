"""Pods that run this very node. Pure.

On the node that it serves such a pod would start a second copy beside the one that keeps it, end with it, and
start again by nobody. Any other node may run it, a virtual one too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from kci.kube import models
from kci.vnode import provider

# What every such program is told, and nothing else is.
_MARK = "VKUBELET_POD_IP"
_FLAG, _VARIABLE, _DEFAULT = "--nodename", "DEFAULT_NODE_NAME", "virtual-kubelet"
REASON: Final = "OwnNode"


def refusal(pod: models.Pod, node_name: str) -> provider.Refusal | None:
    for number, container in enumerate(pod.spec.containers):
        if _node_of(container) == node_name:
            return provider.Refusal(
                REASON,
                f"spec.containers[{number}] is the virtual node {node_name} itself, which cannot run on the "
                "node that it makes: keep the pod off that node by a nodeAffinity (matchFields "
                f"metadata.name NotIn {node_name}, or type NotIn virtual-kubelet), and delete it",
                "spec.affinity.nodeAffinity",
            )
    return None


def _node_of(container: models.Container) -> str | None:
    """The node that this container is the program of."""
    variables = {one.name: one.value or "" for one in container.env}
    if _MARK not in variables:
        return None
    named = _flag((*container.command, *container.args))
    return named or variables.get(_VARIABLE, "").strip() or _DEFAULT


def _flag(words: Sequence[str]) -> str:
    """The last one counts, as for the program."""
    found = ""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, separator, value = word.partition("=")
        if name == _FLAG:
            found = value if separator else following
    return found.strip()
