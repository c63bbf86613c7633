"""No call to the outside without a limit in time (R15); `make check` runs this through check_rules.py.

Looked at are the calls that wait on a peer, by their names: connections, look-ups of hosts, HTTP sessions,
other programs. Each stands in an `async with asyncio.timeout…` of its own function, or names its `timeout`,
which for HTTP is not one that never ends. Where the caller holds the limit, or silence is normal, a comment
says so on the line or the one above: `# deadline: …`. Calls of gRPC have one place, Connection.ask, which
demands a limit.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

# The last part of the called name. What may say `timeout=` itself, and what cannot.
WITH_KEYWORD = frozenset({"ClientSession", "run", "check_call", "check_output", "urlopen"})
BARE = frozenset(
    {
        "open_connection",
        "open_unix_connection",
        "create_connection",
        "create_unix_connection",
        "sock_connect",
        "getaddrinfo",
    }
)
# `run` is the name of much: only of these modules.
RUN_OF = frozenset({"subprocess"})
COMMENT = "# deadline: "


def problems(repository: pathlib.Path) -> Iterator[str]:
    for path in sorted((repository / "src" / "kci").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for line in unlimited(text):
            yield f"{path.relative_to(repository)}:{line}: waits on the outside without a limit in time"


def unlimited(text: str) -> list[int]:
    """The lines of such calls in a module's text."""
    lines = text.splitlines()
    return [
        call.lineno
        for call in _calls(ast.parse(text), is_limited=False)
        if not any(COMMENT in line for line in lines[max(0, call.lineno - 2) : call.lineno])
    ]


def _calls(node: ast.AST, *, is_limited: bool) -> Iterator[ast.Call]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        # It may run when the block around it is over.
        is_limited = False
    if isinstance(node, ast.AsyncWith):
        for item in node.items:
            yield from _calls(item, is_limited=is_limited)
            is_limited = is_limited or _name(item.context_expr) in {"timeout", "timeout_at"}
        for child in node.body:
            yield from _calls(child, is_limited=is_limited)
        return
    if isinstance(node, ast.Call) and _waits(node, is_limited=is_limited):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, is_limited=is_limited)


def _waits(call: ast.Call, *, is_limited: bool) -> bool:
    name, keywords = _name(call), {keyword.arg: keyword.value for keyword in call.keywords}
    match name:
        case "ClientTimeout":
            total = keywords.get("total")
            return isinstance(total, ast.Constant) and total.value is None and "sock_read" not in keywords
        case "run" if not _is_of(call, RUN_OF):
            return False
        case _ if name in WITH_KEYWORD:
            return "timeout" not in keywords and not is_limited
        case _:
            return name in BARE and not is_limited


def _name(node: ast.AST) -> str:
    """The last part of what is called."""
    if isinstance(node, ast.Call):
        function = node.func
        return getattr(function, "attr", "") or getattr(function, "id", "")
    return ""


def _is_of(call: ast.Call, modules: frozenset[str]) -> bool:
    return isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in modules
