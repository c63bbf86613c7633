"""The component configuration: the file of --provider-config, with some keys of KCE's newer virtual node.

Everything else of that configuration is a flag or a variable here; who gives it in the file is told which.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
import yaml

from kci.kube import bandwidth, errors, models, quantity
from kci.provider import annotations as pod_annotations
from kci.provider import options
from kci.vnode import node

V = TypeVar("V")

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
LABEL_VALUE = re.compile(r"([a-zA-Z0-9]([-a-zA-Z0-9._]{0,61}[a-zA-Z0-9])?)?\Z")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[a-zA-Z0-9]([-a-zA-Z0-9._]{0,61}[a-zA-Z0-9])?\Z"
)
_LONGEST_PREFIX = 253
# Where the same is said here, for the keys of KCE's file that have such a place.
_ELSEWHERE = {
    "kubeconfig": "--kubeconfig",
    "nodename": "--nodename",
    "enableNodeLease": "--enable-node-lease",
    "disableTaint": "--disable-taint",
    "server": "KUBELET_PORT, --tls-cert-file and --tls-private-key-file",
    "openapi": "KCI_REGION, and KCI_ACCESS_KEY with KCI_SECRET_KEY or TEMP_AKSK_CM",
    "metricsServer": "--metrics-addr",
    "logLevel": "--log-level",
    "startupTimeout": "--startup-timeout",
    "clusterId": "KCI_CLUSTER_ID",
    "podSyncWorkers": "--pod-sync-workers",
    "clusterDns": "--cluster-dns",
    "clusterDomain": "--cluster-domain",
}
_NOT_HERE = frozenset(
    {
        "version",
        "Version",
        "namespace",
        "anonymousAuth",
        "allowPrivileged",
        "kciletHeartbeat",
        "kciPodDeletionCost",
        "batchCreateEnable",
        "podSyncRate",
        "imageCacheEnable",
        "podSyncBucketSize",
        "summarySyncInterval",
        "advancedSetting",
    }
)
_FORMS = {
    "taints": '[{"key": "a", "value": "b", "effect": "NoSchedule"}]',
    "capacity": '{"cpu": "1000", "memory": "4Ti"}',
    "customLabels": '{"name": "value"}, numbers and true and false in quotes too',
    "instanceSettings": f'{{"{pod_annotations.SUBNET}": "value"}}, numbers and true and false in quotes too',
    "kciletKubeconfigPath": '"/a/path"',
}
_KNOWN = tuple(key.name for key in options.KEYS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """None: not in the file."""

    taints: tuple[models.Taint, ...] | None = None
    capacity: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    instance_settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    instance_kubeconfig: pathlib.Path | None = None


def read(path: str, problems: list[str]) -> NodeConfig:
    """Blocking, for the start of a program. Adds to `problems` all that is wrong."""
    found: list[str] = []
    keys = _load(path, found)
    found += [_unknown(key) for key in keys if key not in _KNOWN]
    config = NodeConfig(
        taints=_taints(keys, found),
        capacity=_capacity(keys, found),
        labels=_labels(keys, found),
        instance_settings=_instance_settings(keys, found),
        instance_kubeconfig=_kubeconfig(keys, found),
    )
    problems += [f"--provider-config={path}: {problem}" for problem in found]
    return config


def check_taint(taint: models.Taint) -> Iterator[str]:
    """What is wrong with it, each beginning with the field's name."""
    if not is_label_key(taint.key):
        yield f"key is {taint.key!r}: write a label's key, such as {node.DEFAULT_TAINT.key}"
    if not LABEL_VALUE.match(taint.value):
        yield f"value is {taint.value!r}: use at most 63 letters, digits, '-', '_' and '.'"
    if taint.effect not in EFFECTS:
        yield f"effect is {taint.effect!r}: use one of {', '.join(EFFECTS)}"


def is_label_key(key: str) -> bool:
    return bool(_LABEL_KEY.match(key)) and len(key.rpartition("/")[0]) <= _LONGEST_PREFIX


def _load(path: str, problems: list[str]) -> dict[str, Any]:
    try:
        document = yaml.safe_load(pathlib.Path(path).read_text())
    except OSError as error:
        problems.append(f"cannot read it: {error.strerror}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"cannot read it as JSON or YAML: {error}")
        return {}
    if not isinstance(document, dict):
        problems.append(f"it holds no object with keys such as {', '.join(_KNOWN)}")
        return {}
    return {str(key): value for key, value in document.items()}


def _unknown(key: str) -> str:
    if key in _ELSEWHERE:
        return f"{key} is not read from this file: remove it there and give {_ELSEWHERE[key]}"
    if key in _NOT_HERE:
        return f"{key} has no meaning for this virtual node: remove it"
    near = difflib.get_close_matches(key, (*_KNOWN, *_ELSEWHERE), n=1)
    hint = f"is {near[0]} meant?" if near else f"there are {', '.join(_KNOWN)}"
    return f"{key} is unknown: {hint}"


def _value(keys: Mapping[str, Any], key: str, type_: type[V], problems: list[str]) -> V | None:
    """None if it is not there, or not of that form."""
    if keys.get(key) is None:
        return None
    try:
        return msgspec.convert(keys[key], type_)
    except msgspec.ValidationError as error:
        wrong = str(error).partition(" - at")[0].replace("`", "")
        problems.append(f"{key}: {wrong}; write it as {_FORMS[key]}")
        return None


def _taints(keys: Mapping[str, Any], problems: list[str]) -> tuple[models.Taint, ...] | None:
    taints = _value(keys, "taints", tuple[models.Taint, ...], problems)
    for number, taint in enumerate(taints or ()):
        problems += [f"taints[{number}]: {problem}" for problem in check_taint(taint)]
    places = [(taint.key, taint.effect) for taint in taints or ()]
    if len(places) > len(set(places)):
        problems.append("taints: two have the same key and effect, and a node may have one only")
    return taints


def _capacity(keys: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    capacity = _value(keys, "capacity", dict[str, str | int], problems) or {}
    for name, value in capacity.items():
        if name not in node.DEFAULT_CAPACITY:
            problems.append(f"capacity: there is no {name}; there are {', '.join(node.DEFAULT_CAPACITY)}")
        elif not _is_amount(value) or (name == "pods" and not str(value).isdecimal()):
            problems.append(f"capacity: {name} is {value!r}: write {node.DEFAULT_CAPACITY[name]} or the like")
    return {name: str(value) for name, value in capacity.items()}


def _is_amount(value: str | int) -> bool:
    try:
        return quantity.parse(value) > 0
    except errors.InvalidError:
        return False


def _labels(keys: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    labels = _value(keys, "customLabels", dict[str, str], problems) or {}
    for key, value in labels.items():
        if not is_label_key(key) or not LABEL_VALUE.match(value):
            problems.append(
                f"customLabels: {key}: {value!r} is no label: use at most 63 letters, digits, - _ ."
            )
        elif key in node.OWN_LABELS:
            problems.append(f"customLabels: {key} is set by the node itself: remove it")
        elif not node.may_set_label(key):
            problems.append(
                f"customLabels: a node may not give itself {key}: remove it, and have an administrator do "
                f"kubectl label node NAME {key}={value}"
            )
    return labels


def _instance_settings(keys: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    settings = _value(keys, "instanceSettings", dict[str, str], problems) or {}
    known = (*pod_annotations.ASKED, bandwidth.INGRESS, bandwidth.EGRESS)
    for key in settings:
        if key not in known:
            traffic = difflib.get_close_matches(key, (bandwidth.INGRESS, bandwidth.EGRESS), n=1, cutoff=0.8)
            near = pod_annotations.nearest(key) or next(iter(traffic), "")
            hint = f"is {near} meant?" if near else f"there are {', '.join(known)}"
            problems.append(f"instanceSettings: nothing reads {key}: {hint}")
    _, refusals = pod_annotations.read({}, settings)
    problems += [
        f"instanceSettings: {refusal.message.removeprefix('metadata.annotations: ')}" for refusal in refusals
    ]
    return settings


def _kubeconfig(keys: Mapping[str, Any], problems: list[str]) -> pathlib.Path | None:
    path = _value(keys, "kciletKubeconfigPath", str, problems)
    if not path:
        return None
    if not pathlib.Path(path).is_file():
        problems.append(f"kciletKubeconfigPath names {path}, which is no file that can be read")
    return pathlib.Path(path)
