"""Make the pages of docs/reference from the code; with --check, say which are not what the code says."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable

import msgspec

from kci.contract import capabilities, operations
from kci.contract import errors as contract_errors
from kci.kcilet import instruments as kcilet_instruments
from kci.provider import instruments as node_instruments
from kci.provider import key_settings, options
from kci.service import instruments as service_instruments
from kci.stack import settings as stack_settings

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "reference"
MADE = "<!-- Made from the code by `make docs`; edits are lost. -->"

_ABOUT_NODE = """\
All of it is checked at the start: the program starts, or names everything that is wrong and what to write.
A boolean flag is written `--flag` or `--flag=false`.
A DURATION is written as `30s`, `5m` or `1h30m`.
A flag that is repeated is no error: a list takes what all of them say, any other the last.
`--klog.*` flags of other virtual nodes are passed over with a warning.
Flags count before variables.
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


def main() -> int:
    pages = {
        "errors.md": errors(),
        "operations.md": service_operations(),
        "kci-up.md": up_settings(),
        "metrics.md": metrics(),
        "virtual-kubelet.md": node_settings(),
    }
    if "--check" in sys.argv[1:]:
        stale = [name for name, text in pages.items() if _read(FOLDER / name) != text]
        for name in stale:
            print(f"docs/reference/{name} is not what the code says: run `make docs`")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (FOLDER / name).write_text(text)
    return 0


def errors() -> str:
    rows = [
        (f"`{entry.code}`", str(entry.status), entry.text, entry.kind.value)
        for entry in sorted(contract_errors.CATALOGUE.values(), key=lambda entry: (entry.status, entry.code))
    ]
    return _page("Errors of the KCI service", _table(("code", "HTTP", "means", "what you can do"), rows))


def service_operations() -> str:
    rows = []
    for action, operation in sorted(operations.ALL.items()):
        names = ", ".join(f"`{field.encode_name}`" for field in msgspec.structs.fields(operation.parameters))
        rows.append((f"`{action}`", "ours" if operation.extension else "Kingsoft Cloud's", names))
    text = _table(("operation", "whose", "parameters"), rows)
    names = "\n".join(f"- `{name}`" for name in capabilities.ALL)
    return _page(
        "Operations of the KCI service", f"{text}\nCapabilities that DescribeCapabilities names:\n\n{names}\n"
    )


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
