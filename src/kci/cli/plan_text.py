"""`kci plan` for people: a paragraph a pod, what is wrong with it last, where the eye is."""

from __future__ import annotations

from collections.abc import Sequence

import rich.console
from rich import text

from kci.provider.plan import preview

_WIDTH = 16


def show(found: Sequence[preview.Preview]) -> None:
    console = rich.console.Console(highlight=False)
    if not found:
        console.print("There is no pod in it.")
    for number, one in enumerate(found):
        if number:
            console.print()
        for line in lines(one):
            console.print(line, soft_wrap=True)


def lines(one: preview.Preview) -> list[text.Text]:
    times = f" ({one.replicas} pods)" if one.replicas != 1 else ""
    made = [text.Text(f"{one.kind} {one.namespace}/{one.name}{times}", "bold")]
    if one.granted:
        made.append(_line("size", f"{one.granted.cpu:g} cores and {one.granted.memory:g} GiB: {one.rule}"))
    if one.dns:
        made += [
            _line("subnet", "the node's" if one.subnet is None else one.subnet or "none"),
            _line("security groups", _groups(one.security_groups)),
            _line("DNS", _dns(one.dns)),
            _line("kube-proxy", "on" if one.kube_proxy else "off: no access to ClusterIP services"),
            _line("bandwidth", _bandwidth(one.bandwidth)),
        ]
    made += [_line("changed", remark.message, "yellow") for remark in one.changes]
    made += [_line("note", remark.message, "cyan") for remark in one.notes]
    made += [_line("REFUSED", refused.message, "bold red") for refused in one.refused]
    return made


def _line(head: str, body: str, style: str = "") -> text.Text:
    return text.Text.assemble(f"  {head:<{_WIDTH}}", (body, style))


def _groups(ids: Sequence[str] | None) -> str:
    return "the node's" if ids is None else ", ".join(ids) or "none"


def _dns(resolver: preview.Dns) -> str:
    searches = f", search {' '.join(resolver.searches)}" if resolver.searches else ""
    options = f", options {' '.join(resolver.options)}" if resolver.options else ""
    servers = " ".join((*(("the node's",) if resolver.of_node else ()), *resolver.servers)) or "no server"
    return f"{resolver.policy}: {servers}{searches}{options}"


def _bandwidth(limits: preview.Bandwidth | None) -> str:
    if limits is None or (limits.ingress is None and limits.egress is None):
        return "no limit"
    both = (("in", limits.ingress), ("out", limits.egress))
    return ", ".join(f"{name} {bits / 1e6:g} Mbit/s" for name, bits in both if bits is not None)
