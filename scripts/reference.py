"""Make docs/reference and the drawings from the code; with --check, say which are not what the code says."""

from __future__ import annotations

import argparse
import inspect
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import drawings
import msgspec
import typer

from kci.cli import main as main_module
from kci.contract import capabilities, groups, operations, remedies
from kci.contract import errors as contract_errors
from kci.doctor import cluster, kci, machine, node, stack
from kci.kcilet import instruments as kcilet_instruments
from kci.kcilet import settings as kcilet_module
from kci.kube import reasons
from kci.provider import annotations as pod_annotations
from kci.provider import instruments as node_instruments
from kci.provider import key_settings, options
from kci.service import instruments as service_instruments
from kci.service import settings as service_settings
from kci.stack import settings as stack_settings

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
MADE = "<!-- Made from the code by `make docs`; edits are lost. -->"

_ABOUT_NODE = """\
All of it is checked at the start: the program starts, or names everything that is wrong and what to write.
A boolean flag is written `--flag` or `--flag=false`.
A DURATION is written as `30s`, `5m` or `1h30m`.
A flag that is repeated is no error: a list takes what all of them say, any other the last.
`--klog.*` flags of other virtual nodes are passed over with a warning.
Flags count before variables.
"""


_ABOUT_DOCTOR = """\
Each line says `ok`, `warning`, `wrong` or `not looked at`, and what to type where something is to be done.
[How to find what is wrong](../how-to/find-what-is-wrong.md) goes from symptoms to lines.
"""


_ABOUT_METRICS = """\
Each program tells of itself in Prometheus' text format, at `/metrics` over HTTP, if it is given an address.
Nobody is asked who they are there: give a loopback address, or one that only your Prometheus reaches.
`kci up` gives each program a free port of 127.0.0.1, which `stack.json` in its state folder names.
The label `code` of a call is `OK`, or the kind of its error; of calls to the KCI service, the error's code.
Beside these each has the `process_*` metrics that Prometheus' clients have in common.
What pods use is not here: it is at the kubelet API, as `/stats/summary` and `/metrics/resource`.
`deploy/grafana/kci.json` is a dashboard of all of them: import it into Grafana and choose your Prometheus.
"""

_ABOUT_ERRORS = """\
A code is for programs and stays as it is.
The text of an answer says more than this table, such as which parameter is wrong.
In an Event of a pod the code is the reason, and the node tries again with back-off where that may help.
"""

_ABOUT_ANNOTATIONS = """\
They are the pod's: in a Deployment they stand in its pod template.
`instanceSettings` in the file of `--provider-config` sets them for pods that do not.
What cannot be read is refused as `InvalidAnnotation`.
One of the prefix `k8s.ksyun.com/` that nobody reads is told as `UnknownAnnotation`.
"""

_ABOUT_EVENTS = """\
`kubectl describe pod NAME` shows the Events of a pod.
`kubectl get events -A --field-selector involvedObject.kind=Node` shows those of nodes.
An Event's message says more than these tables: which field, which command.
Besides these, a reason may be the code of an [error of the KCI service](errors.md).
"""

_REFUSED = (
    "Such a pod stays Pending: the reason is on the pod, on its condition "
    "`virtual-kubelet.io/InstanceCreated`, and on one Event."
)
_REASONS: tuple[tuple[str, str, str, Mapping[Any, reasons.About]], ...] = (
    ("Of the node", "type", "Told by `virtual-kubelet`.", reasons.NODE),
    ("Of a pod that is refused", "type", _REFUSED, reasons.REFUSALS),
    ("Of a pod and its instance", "type", "Told by `virtual-kubelet`.", reasons.POD),
    ("Of a pod that runs", "type", "Told by the `kcilet`, most of them as a kubelet does.", reasons.RUN),
    (
        "Reasons of conditions",
        "condition",
        "`kubectl get pod NAME -o yaml`, under `status.conditions`.",
        reasons.CONDITIONS,
    ),
    (
        "Reasons of containers",
        "state",
        "`kubectl get pods` shows them as STATUS. A runtime may have others for a container that ended.",
        reasons.CONTAINERS,
    ),
    (
        "Reasons of container groups",
        "where",
        "As `kci group ID` shows, besides those of containers.",
        reasons.GROUPS,
    ),
)


def main() -> int:
    pages = {
        "reference/annotations.md": annotations(),
        "reference/doctor.md": doctor(),
        "reference/errors.md": errors(),
        "reference/events.md": events(),
        "reference/operations.md": service_operations(),
        "reference/kci.md": commands(),
        "reference/kci-serve.md": _page("Settings of `kci serve`", _flags(service_settings.make_parser())),
        "reference/kci-up.md": up_settings(),
        "reference/kcilet.md": kcilet_settings(),
        "reference/metrics.md": metrics(),
        "reference/virtual-kubelet.md": node_settings(),
        **{f"assets/{name}": drawings.draw(flow) for name, flow in drawings.ALL.items()},
    }
    if "--check" in sys.argv[1:]:
        stale = [name for name, text in pages.items() if _read(DOCS / name) != text]
        for name in stale:
            print(f"docs/{name} is not what the code says: run `make docs`")
        return 1 if stale else 0
    for name, text in pages.items():
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(text)
    return 0


def errors() -> str:
    rows = [
        (f"`{entry.code}`", str(entry.status), entry.text, remedies.of(entry))
        for entry in sorted(contract_errors.CATALOGUE.values(), key=lambda entry: (entry.status, entry.code))
    ]
    return _page(
        "Errors of the KCI service",
        f"{_ABOUT_ERRORS}\n{_table(('code', 'HTTP', 'means', 'what to do'), rows)}",
    )


def annotations() -> str:
    rows = [(f"`{one.name}`", one.who, one.values, one.means) for one in pod_annotations.ANNOTATIONS]
    return _page(
        "Annotations of pods",
        f"{_ABOUT_ANNOTATIONS}\n{_table(('annotation', 'set by', 'value', 'means'), rows)}",
    )


def events() -> str:
    if forgotten := reasons.unlisted():
        sys.exit(f"kube/reasons.py: {', '.join(forgotten)} is in a type or in its table, and not in both")
    parts = []
    for title, heading, about, table in _REASONS:
        rows = _table(("reason", heading, "means", "what to do"), map(_reason, table.items()))
        parts.append(f"## {title}\n\n{about}\n\n{rows}")
    return _page("Events and reasons", f"{_ABOUT_EVENTS}\n" + "\n".join(parts))


def _reason(row: tuple[str, reasons.About]) -> tuple[str, ...]:
    return f"`{row[0]}`", row[1].types, row[1].means, row[1].remedy


def doctor() -> str:
    supervisor = (f"`{stack.SUPERVISOR}`", "Who holds the state folder, and whether the stack is ready.")
    parts = []
    for area in (machine, stack, cluster, node, kci):
        rows = [(f"`{name}`", inspect.getdoc(ask) or "") for name, ask in area.ALL.items()]
        first = [supervisor] if area is stack else []
        parts.append(f"## `{area.AREA}`\n\n{_table(('line', 'well is'), [*first, *rows])}")
    return _page("What `kci doctor` looks at", f"{_ABOUT_DOCTOR}\n" + "\n".join(parts))


def service_operations() -> str:
    rows = []
    refused = _names(groups.NotHonoured)
    for action, operation in sorted(operations.ALL.items()):
        taken = [name for name in _names(operation.parameters) if name not in refused]
        names = ", ".join(f"`{name}`" for name in taken)
        rows.append((f"`{action}`", "ours" if operation.extension else "Kingsoft Cloud's", names))
    text = _table(("operation", "whose", "parameters"), rows)
    names = "\n".join(f"- `{name}`" for name in capabilities.ALL)
    not_honoured = ", ".join(f"`{name}`" for name in refused)
    return _page(
        "Operations of the KCI service",
        f"{text}\nWhat Kingsoft Cloud's CreateContainerGroup takes as well is refused here by its name "
        f"(UnsupportedOperation): {not_honoured}.\n\n"
        f"Capabilities that DescribeCapabilities names:\n\n{names}\n",
    )


def _names(parameters: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(parameters)]


def up_settings() -> str:
    rows = [
        (
            f"`--{field.name.replace('_', '-')}`",
            stack_settings.describe(field.name),
            f"`{field.default}`" if field.default not in {"", False, msgspec.NODEFAULT} else "",
        )
        for field in msgspec.structs.fields(stack_settings.Settings)
    ]
    return _page("Settings of `kci up`", _table(("flag", "means", "default"), rows))


def node_settings() -> str:
    tables = {
        "Flags": tuple(_as_flag(flag) for flag in options.FLAGS),
        "Environment": (*options.VARIABLES, *key_settings.VARIABLES),
        "The file of `--provider-config`": options.KEYS,
    }
    parts = [
        f"## {title}\n\n{_table(('name', 'means', 'default', 'why'), map(_option, rows))}"
        for title, rows in tables.items()
    ]
    return _page("Settings of `virtual-kubelet`", f"{_ABOUT_NODE}\n" + "\n".join(parts))


def kcilet_settings() -> str:
    parts = [
        f"## `kcilet {name}`\n\n{_flags(parser)}"
        for action in kcilet_module.make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, parser in action.choices.items()
    ]
    return _page("Settings of the `kcilet`", "\n".join(parts))


def commands() -> str:
    """What `kci` can be asked; up and serve have pages of their own."""
    elsewhere = {"up": "kci-up.md", "serve": "kci-serve.md"}
    parts = []
    for name, command in walk(typer.main.get_command(main_module.app)):
        about = " ".join((command.help or "").split())
        page = elsewhere.get(name)
        rows = [
            (", ".join(f"`{form}`" for form in (*one.opts, *one.secondary_opts)), one.help or "")
            if one.param_type_name == "option"
            else (f"`{one.name.upper()}`", getattr(one, "help", "") or "")
            for one in command.params
        ]
        table = f"See [its page]({page}).\n" if page else _table(("option", "means"), rows) if rows else ""
        parts.append(f"## `kci {name}`\n\n{about}\n\n{table}".rstrip() + "\n")
    return _page("Commands of `kci`", "\n".join(parts))


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command that does something, by its words."""
    if hasattr(command, "commands"):
        for name, below in sorted(command.commands.items()):
            yield from walk(below, (*path, name))
    else:
        yield " ".join(path), command


def _flags(parser: argparse.ArgumentParser) -> str:
    rows = [
        (
            f"`{action.option_strings[-1]}{f' {action.metavar}' if action.metavar else ''}`",
            ((action.help or "") % vars(action)).removesuffix(f" (default: {action.default})"),
            "needed" if action.required else _default(action.default),
        )
        for action in parser._actions
        if action.option_strings and not isinstance(action, argparse._HelpAction)
    ]
    return _table(("flag", "means", "default"), rows)


def _default(value: Any) -> str:
    is_told = isinstance(value, str | int) and not isinstance(value, bool) and value
    return f"`{value}`" if is_told else ""


def metrics() -> str:
    parts = []
    for program, instruments, flag in (
        ("virtual-kubelet", node_instruments.make(), "--metrics-addr"),
        ("kci serve", service_instruments.make(), "--metrics-listen"),
        ("kcilet run", kcilet_instruments.make(), "--metrics-listen"),
    ):
        rows = [
            (
                f"`{family.name}`",
                family.kind,
                ", ".join(f"`{label}`" for label in family.labels),
                family.about,
            )
            for family in instruments.registry.families
        ]
        table = _table(("name", "type", "labels", "means"), rows)
        parts.append(f"## `{program}`\n\nServed where `{flag}` says.\n\n{table}")
    return _page("Metrics", f"{_ABOUT_METRICS}\n" + "\n".join(parts))


def _as_flag(flag: options.Flag) -> options.Option:
    form = "" if flag.form == options.BOOLEAN else f"={flag.form}"
    return options.Option(f"--{flag.name}{form}", flag.means, flag.default, flag.why)


def _option(option: options.Option) -> tuple[str, ...]:
    return f"`{option.name}`", option.means, option.default or "needed", option.why


def _page(title: str, body: str) -> str:
    return f"{MADE}\n# {title}\n\n{body}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _read(path: pathlib.Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
