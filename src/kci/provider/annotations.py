"""The guide's pod annotations, read and checked. Pure. They are on the pod, not on its Deployment.

The node's `instanceSettings` have the same names and stand for what a pod does not say.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

import msgspec

from kci.contract import groups
from kci.kube import bandwidth, errors
from kci.vnode import provider

PREFIX = "k8s.ksyun.com/"
CPU = f"{PREFIX}kci-instance-cpu"
MEMORY = f"{PREFIX}kci-instance-memory"
SECURITY_GROUPS = f"{PREFIX}kci-security-group-id"
SUBNET = f"{PREFIX}kci-subnet-id"
KUBE_PROXY = f"{PREFIX}kci-kube-proxy-enabled"
HOST_ALIASES = f"{PREFIX}kci-host-aliases"
# Ours, for a parameter of the API that has no annotation of Kingsoft's.
RETAIN_IP = f"{PREFIX}kci-retain-ip"
RETAIN_IP_HOURS = f"{PREFIX}kci-retain-ip-hours"
# The API's own limits.
MAX_CORES = 256.0
MAX_MEMORY_GB = 512.0
MAX_SECURITY_GROUPS = 3
MAX_RETAIN_IP_HOURS = 8760


class About(NamedTuple):
    """An annotation: `who` sets it, which values it may have, what it means."""

    name: str
    who: str
    values: str
    means: str


ANNOTATIONS = (
    About(CPU, "user", f"cores, more than 0, at most {MAX_CORES:g}", "with the next: the instance's size"),
    About(MEMORY, "user", f"GiB, more than 0, at most {MAX_MEMORY_GB:g}", "with the one before: its size"),
    About(
        SECURITY_GROUPS,
        "user",
        f"1 to {MAX_SECURITY_GROUPS} ids, comma separated",
        "the security groups that the pod is in",
    ),
    About(SUBNET, "user", "one subnet's id", "the subnet that the pod's address is of"),
    About(KUBE_PROXY, "user", "`true` or `false`", "whether the pod reaches Services by their ClusterIP"),
    About(
        HOST_ALIASES,
        "user",
        "JSON: a list of `{ip, hostnames}`",
        "host names for the pod's /etc/hosts, as names of the instance's machine",
    ),
    About(
        RETAIN_IP,
        "user",
        "`true` or `false`",
        "whether the next pod of this name gets this address; not Kingsoft Cloud's",
    ),
    About(
        RETAIN_IP_HOURS,
        "user",
        f"hours, 1 to {MAX_RETAIN_IP_HOURS}",
        "how long it is kept after the pod is gone; not Kingsoft Cloud's",
    ),
    About(
        bandwidth.INGRESS,
        "user",
        "bits per second, 1k to 1P",
        "limit of traffic to the pod; may change while it runs",
    ),
    About(
        bandwidth.EGRESS,
        "user",
        "bits per second, 1k to 1P",
        "limit of traffic from the pod; may change while it runs",
    ),
    About(f"{PREFIX}kci-instance-id", "kci", "an id", "the container group that runs the pod"),
    About(f"{PREFIX}kci-instance-spec", "kci", "CPU-MEMORY, such as `2-4Gi`", "the size that it was granted"),
)
# What a user sets, and what is written back.
ASKED = tuple(one.name for one in ANNOTATIONS if one.who == "user" and one.name.startswith(PREFIX))
TOLD = tuple(one.name for one in ANNOTATIONS if one.who == "kci")

REASON: Final = "InvalidAnnotation"
UNKNOWN: Final = "UnknownAnnotation"
# So alike are words of which one is a misspelt other.
_NEAR = 0.75

_EXAMPLE = '[{"ip": "10.0.0.9", "hostnames": ["registry.local"]}]'


class _HostAlias(msgspec.Struct, frozen=True):
    """As in spec.hostAliases of a pod."""

    ip: Annotated[str, msgspec.Meta(min_length=1)]
    hostnames: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a pod asks of KCI beyond what its spec says; None or empty where it says nothing."""

    cores: float | None = None
    memory_gb: float | None = None
    subnet_id: str = ""
    security_group_ids: tuple[str, ...] = ()
    kube_proxy: bool | None = None
    # Of the machine below; spec.hostAliases are the pod's own.
    host_aliases: tuple[groups.HostAlias, ...] = ()
    # The next pod of the same name gets the same address, if it comes within so many hours.
    retain_ip: bool = False
    retain_ip_hours: int | None = None
    # Bits per second.
    ingress_bps: int | None = None
    egress_bps: int | None = None


class _Reader:
    """Reads values and collects what is wrong with them."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.problems: list[provider.Refusal] = []

    def refuse(self, key: str, problem: str) -> None:
        field = f"metadata.annotations[{key}]"
        self.problems.append(provider.Refusal(REASON, f"metadata.annotations: {problem}", field))

    def number(self, key: str, most: float, unit: str) -> float | None:
        """Rounded up to the API's three decimals."""
        text = self.texts.get(key)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= most:
            self.refuse(key, f"{key} is {text!r}: write a number of {unit}, more than 0 and at most {most:g}")
            return None
        return math.ceil(round(value * 1000, 6)) / 1000

    def boolean(self, key: str) -> bool | None:
        text = self.texts.get(key)
        if text is None:
            return None
        if text.strip().lower() not in {"true", "false"}:
            self.refuse(key, f"{key} is {text!r}: write 'true' or 'false'")
        return text.strip().lower() == "true"

    def hours(self, key: str, most: int) -> int | None:
        text = self.texts.get(key)
        if text is None:
            return None
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
        if not 1 <= number <= most:
            self.refuse(key, f"{key} is {text!r}: write a whole number of hours, 1 to {most}")
            return None
        return number

    def names(self, key: str, most: int, what: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in self.texts.get(key, "").split(",") if part.strip())
        if key in self.texts and not 1 <= len(found) <= most:
            self.refuse(key, f"{key} has {len(found)} {what}: name 1 to {most}")
        return found

    def bandwidth(self, key: str) -> int | None:
        text = self.texts.get(key)
        if text is None:
            return None
        try:
            return bandwidth.parse(text)
        except errors.InvalidError:
            self.refuse(
                key, f"{key} is {text!r}: write bits per second, such as 100M, 1.5G or 64k (1k to 1P)"
            )
            return None

    def host_aliases(self, key: str) -> tuple[groups.HostAlias, ...]:
        text = self.texts.get(key, "").strip() or "[]"
        try:
            aliases = msgspec.json.decode(text, type=tuple[_HostAlias, ...])
        except msgspec.MsgspecError as error:
            self.refuse(key, f"{key} cannot be read ({error}): write {_EXAMPLE}")
            return ()
        for alias in aliases:
            if not _is_address(alias.ip):
                self.refuse(key, f"{key} has the ip {alias.ip!r}, which is no address: write {_EXAMPLE}")
            for name in alias.hostnames:
                if not groups.is_host_name(name):
                    self.refuse(key, f"{key} has {name!r}, which is no host name: write {_EXAMPLE}")
        return tuple(groups.HostAlias(ip=alias.ip, hostname=alias.hostnames) for alias in aliases)


def read(
    annotations: Mapping[str, str], instance_settings: Mapping[str, str] | None = None
) -> tuple[Wishes, list[provider.Refusal]]:
    """The wishes, the pod's before the node's, and what is wrong with them."""
    texts = _merged(annotations, instance_settings or {})
    reader = _Reader(texts)
    cores = reader.number(CPU, MAX_CORES, "cores")
    memory_gb = reader.number(MEMORY, MAX_MEMORY_GB, "GiB")
    if (CPU in texts) != (MEMORY in texts):
        given, missing = (CPU, MEMORY) if CPU in texts else (MEMORY, CPU)
        reader.refuse(given, f"{given} is set without {missing}: set both, or neither")
    subnet_id = texts.get(SUBNET, "").strip()
    if SUBNET in texts and (not subnet_id or "," in subnet_id):
        reader.refuse(SUBNET, f"{SUBNET} must name one subnet")
    wishes = Wishes(
        cores=cores,
        memory_gb=memory_gb,
        subnet_id=subnet_id,
        security_group_ids=reader.names(SECURITY_GROUPS, MAX_SECURITY_GROUPS, "security groups"),
        kube_proxy=reader.boolean(KUBE_PROXY),
        host_aliases=reader.host_aliases(HOST_ALIASES),
        retain_ip=reader.boolean(RETAIN_IP) or False,
        retain_ip_hours=reader.hours(RETAIN_IP_HOURS, MAX_RETAIN_IP_HOURS),
        ingress_bps=reader.bandwidth(bandwidth.INGRESS),
        egress_bps=reader.bandwidth(bandwidth.EGRESS),
    )
    return wishes, reader.problems


def unknown(annotations: Mapping[str, str]) -> list[provider.Notice]:
    """A warning for each annotation of KCI's that nobody reads, with the nearest name that somebody does."""
    return [
        provider.Notice(UNKNOWN, f"metadata.annotations: nothing reads {key}{_hint(key)}", is_warning=True)
        for key in sorted(annotations)
        if key.startswith(PREFIX) and key not in {*ASKED, *TOLD}
    ]


def nearest(key: str) -> str:
    """The annotation that was probably meant; empty if none is near: a name with a word that none of them has
    is the name of something else.
    """
    words = key.removeprefix(PREFIX).split("-")
    possible = [known for known in ASKED if all(_is_spelt(word, known) for word in words)]
    return next(iter(difflib.get_close_matches(key, possible, n=1, cutoff=0.0)), "")


def _is_spelt(word: str, known: str) -> bool:
    """Whether a known name has this word, or nearly."""
    own = known.removeprefix(PREFIX).split("-")
    if any(one.startswith(word) or word.startswith(one) for one in own):
        return True
    return bool(difflib.get_close_matches(word, own, n=1, cutoff=_NEAR))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _hint(key: str) -> str:
    near = nearest(key)
    return f"; is {near} meant?" if near else f"; known are {', '.join(ASKED)}"


def _merged(annotations: Mapping[str, str], instance_settings: Mapping[str, str]) -> Mapping[str, str]:
    if not instance_settings:
        return annotations
    node = dict(instance_settings)
    if CPU in annotations or MEMORY in annotations:
        # They belong together: a pod's half is no half of the node's.
        node.pop(CPU, None)
        node.pop(MEMORY, None)
    return {**node, **annotations}
