"""The two flows of docs/concepts.md as SVG: who tells whom what, in order. `make docs` draws them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from xml.sax import saxutils

LANE, ROW, TOP, SIDE = 150, 34, 54, 80


@dataclasses.dataclass(frozen=True)
class Flow:
    """Steps are (from, to, what); one that stays with itself is what it does."""

    title: str
    lanes: tuple[str, ...]
    steps: tuple[tuple[str, str, str], ...]


POD_START = Flow(
    "How a pod starts",
    ("kubectl", "API server", "virtual-kubelet", "KCI service", "kcilet", "containerd"),
    (
        ("kubectl", "API server", "create a pod"),
        ("API server", "virtual-kubelet", "a pod is bound to the node"),
        ("virtual-kubelet", "virtual-kubelet", "plan: size, network, or a refusal"),
        ("virtual-kubelet", "KCI service", "CreateContainerGroup, signed"),
        ("KCI service", "KCI service", "check, write to the store"),
        ("KCI service", "virtual-kubelet", "the instance's id"),
        ("virtual-kubelet", "API server", "Events: Accepted, InstanceCreated"),
        ("KCI service", "kcilet", "the wanted group"),
        ("API server", "kcilet", "the pod, its ConfigMaps and Secrets, its token"),
        ("kcilet", "containerd", "sandbox, images, containers"),
        ("containerd", "kcilet", "they run"),
        ("kcilet", "API server", "status: Running, Ready; Events"),
        ("kcilet", "KCI service", "report"),
        ("KCI service", "virtual-kubelet", "change stream"),
    ),
)
EXEC = Flow(
    "How kubectl exec reaches a container",
    ("kubectl", "API server", "virtual-kubelet", "KCI service", "kcilet", "containerd"),
    (
        ("kubectl", "API server", "exec, over WebSocket or SPDY"),
        ("API server", "virtual-kubelet", "the same at the kubelet API"),
        ("virtual-kubelet", "API server", "may this client do that?"),
        ("API server", "virtual-kubelet", "yes"),
        ("virtual-kubelet", "KCI service", "ExecContainerCommand, signed"),
        ("KCI service", "virtual-kubelet", "an address for one use"),
        ("virtual-kubelet", "KCI service", "open it"),
        ("KCI service", "kcilet", "open it there"),
        ("kcilet", "containerd", "exec in the container"),
        ("kubectl", "containerd", "input, and the terminal's size"),
        ("containerd", "kubectl", "output, and in the end the exit code"),
    ),
)
ALL = {"pod-start.svg": POD_START, "exec.svg": EXEC}

_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2937; }
.lane { stroke: #9ca3af; stroke-dasharray: 3 4; }
.head { fill: #e0e7ff; stroke: #4f46e5; }
.name { font-weight: 600; }
.step { stroke: #4f46e5; fill: none; stroke-width: 1.5; }
.tip { fill: #4f46e5; }
.ground { fill: #ffffff; }"""


def draw(flow: Flow) -> str:
    at = {lane: SIDE + number * LANE for number, lane in enumerate(flow.lanes)}
    width, height = SIDE * 2 + LANE * (len(flow.lanes) - 1), TOP + ROW * (len(flow.steps) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{flow.title}</title>",
        f"<style>{_STYLE}</style>",
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>'
        ),
        f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
    ]
    for lane, x in at.items():
        parts += [
            f'<path class="lane" d="M{x} {TOP - 14}V{height - 10}"/>',
            f'<rect class="head" x="{x - 66}" y="12" width="132" height="28" rx="5"/>',
            f'<text class="name" x="{x}" y="31" text-anchor="middle">{lane}</text>',
        ]
    for number, (source, target, what) in enumerate(flow.steps, 1):
        parts += _step(number, at[source], at[target], TOP + ROW * number, what, width)
    return "\n".join([*parts, "</svg>", ""])


def _step(number: int, x: int, to: int, y: int, what: str, width: int) -> Iterator[str]:
    text = saxutils.escape(f"{number}. {what}")
    if x == to:
        yield f'<path class="step" d="M{x} {y - 12}h14v10h-10" marker-end="url(#tip)"/>'
        yield f'<text x="{x + 22}" y="{y - 3}">{text}</text>'
        return
    # Readable over the lanes, and inside of the drawing where the text is longer than its arrow.
    half = len(text) * 65 // 20
    middle = min(max((x + to) // 2, half + 4), width - half - 4)
    yield f'<rect class="ground" x="{middle - half}" y="{y - 18}" width="{half * 2}" height="13"/>'
    yield f'<path class="step" d="M{x} {y}H{to}" marker-end="url(#tip)"/>'
    yield f'<text x="{middle}" y="{y - 7}" text-anchor="middle">{text}</text>'
