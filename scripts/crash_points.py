"""The crash points of the source: `python scripts/crash_points.py` lists them, check_rules.py checks them.

A point is a call `crashpoints.reached("package.subject.step")` (src/kci/kit/crashpoints.py). Where points are
owed is said by `EFFECTS`: each function that writes to a store, or changes something outside of its
program, has one before its first effect and one after its last.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterator

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "src" / "kci"
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+){2,3}")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Effect:
    """Calls `receiver.verb…()` in this folder change something that outlives the program."""

    folder: str
    receivers: tuple[str, ...]
    verbs: tuple[str, ...]

    def is_call(self, call: ast.Call) -> bool:
        function = call.func
        if not isinstance(function, ast.Attribute):
            return False
        owner = function.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        return name.strip("_") in self.receivers and function.attr.startswith(self.verbs)


# Events and logs are told, not relied on: they need no points.
EFFECTS = (
    # The cloud's API, and the pods, node and Lease at the API server.
    Effect("provider", ("client",), ("create_container_group", "delete_container_group")),
    # Certificates and the role: the node's account may be an administrator's.
    Effect("provider", ("requester", "approver", "account"), ("create", "patch", "delete")),
    Effect("vnode", ("client",), ("create", "patch", "replace", "delete")),
    Effect("source", ("client",), ("create", "patch", "replace", "delete")),
    # The service's rows, the commit that makes them last, and its engine.
    Effect(
        "service/app",
        ("table", "addresses_table", "kubeconfigs_table"),
        ("insert_", "update_", "claim_", "remove_", "raise_"),
    ),
    Effect("service/store/database.py", ("engine",), ("begin",)),
    Effect("service/reconcilers", ("engine",), ("sync", "ensure", "remove", "set_")),
    # What the kcilet does to its machine.
    Effect(
        "kcilet/workers/effects.py",
        ("runtime", "volumes", "network", "cgroups", "logs"),
        ("run_", "create_", "start_", "stop_", "remove_", "pull_", "ensure_"),
    ),
    Effect("kcilet/workers/guard.py", ("network",), ("guard",)),
    Effect("kcilet/server.py", ("served",), ("ensure_",)),
)
# The store is opened, checked and made by functions of their own, before anybody was answered.
EXCEPTIONS = {("service/store/database.py", "_check_key"), ("service/store/database.py", "_make")}
PROGRAMS = {
    "provider": "virtual-kubelet",
    "vnode": "virtual-kubelet",
    "service": "kci-service",
    "source": "kcilet",
    "kcilet": "kcilet",
}


@dataclasses.dataclass(frozen=True)
class Point:
    name: str
    # Below src/kci.
    file: str
    line: int
    # As the stack names its part.
    program: str


def list_points(package: pathlib.Path = PACKAGE) -> list[Point]:
    """Every point of the source, in the order of files."""
    return [
        Point(call.args[0].value, file, call.lineno, PROGRAMS.get(file.split("/")[0], ""))
        for file, tree in _sources(package)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and _is_point(call) and _is_literal(call)
    ]


def list_steps_of_a_pod() -> list[Point]:
    """Those of the kcilet that each pod passes on its machine, before its group is told to be gone."""
    folders = ("kcilet/workers/effects.py", "kcilet/workers/guard.py", "kcilet/drivers/network/")
    others = ("kcilet.adopt_", "kcilet.add_gateway.", "kcilet.remove_gateway.", "kcilet.forget_flows.")
    return [
        point
        for point in list_points()
        if point.file.startswith(folders) and not point.name.startswith(others)
    ]


def problems(package: pathlib.Path = PACKAGE) -> Iterator[str]:
    """Names that are not literal, not one of a kind or badly formed; effects without points beside them."""
    for file, tree in _sources(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _is_point(node) and not _is_literal(node):
                yield f"{_shown(file)}:{node.lineno}: the name of a crash point must be one literal string"
        for function in ast.walk(tree):
            if isinstance(function, Function):
                yield from _missing(file, function)
    points = list_points(package)
    count = collections.Counter(point.name for point in points)
    for point in points:
        where = f"{_shown(point.file)}:{point.line}: the crash point {point.name}"
        if count[point.name] > 1:
            yield f"{where} is not the only one of its name"
        if not NAME.fullmatch(point.name):
            yield f"{where} is not named package.subject.step"
        if not point.program:
            yield f"{where} stands in a package that PROGRAMS of scripts/crash_points.py does not know"


def _missing(file: str, function: Function) -> Iterator[str]:
    kinds = [effect for effect in EFFECTS if file.startswith(effect.folder)]
    if not kinds or (file, function.name) in EXCEPTIONS:
        return
    calls = list(_own_calls(function))
    effects = [call for call in calls if any(kind.is_call(call) for kind in kinds)]
    if not effects:
        return
    points = [call.lineno for call in calls if _is_point(call)]
    first, last = effects[0], effects[-1]
    if not any(line <= first.lineno for line in points):
        yield f"{_shown(file)}:{first.lineno}: no crash point before this effect in {function.name}"
    if not any(line > last.lineno for line in points):
        yield f"{_shown(file)}:{last.lineno}: no crash point after this effect in {function.name}"


def _own_calls(function: Function) -> Iterator[ast.Call]:
    """Calls in the function's own body, by lines; those of functions inside it are theirs."""
    found: list[ast.Call] = []
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.Call):
            found.append(node)
        waiting.extend(ast.iter_child_nodes(node))
    return iter(sorted(found, key=lambda call: call.lineno))


def _sources(package: pathlib.Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        file = path.relative_to(package).as_posix()
        if b"crashpoints" in text or any(file.startswith(effect.folder) for effect in EFFECTS):
            yield file, ast.parse(text)


def _is_point(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "reached"
        and isinstance(function.value, ast.Name)
        and function.value.id == "crashpoints"
    )


def _is_literal(call: ast.Call) -> bool:
    return (
        len(call.args) == 1
        and not call.keywords
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    )


def _shown(file: str) -> str:
    return f"src/kci/{file}"


def main() -> None:
    for point in list_points():
        print(f"{point.program:<16} {point.name:<44} {_shown(point.file)}:{point.line}")


if __name__ == "__main__":
    main()
