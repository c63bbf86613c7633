"""Shows a stack's account on the terminal while it changes, or line by line where there is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec
import rich.console
import rich.live

from kci.cli import table
from kci.stack import lifecycle, record

DOWN_TIMEOUT_S = 300.0
INTERRUPTED = 130


class PartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A part in `kci status -o json`."""

    name: str
    state: str
    pid: int | None
    version: str
    log_file: str
    restarts: int
    started_in_s: float | None
    detail: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kci status -o json`."""

    state: str
    parts: list[PartStatus]
    started_in_s: float | None = None
    node_name: str = ""
    kubeconfig: str = ""
    kci_endpoint: str = ""
    kci_region: str = ""
    env_file: str = ""
    netns: str = ""
    gateway: str = ""
    images: str = ""
    warnings: tuple[str, ...] = ()
    failure: str = ""


def show_up(run: lifecycle.Run, *, stay: bool) -> int:
    """Follow a start; with `stay`, also what comes after it, until Ctrl-C. Returns the exit code."""
    console, place = rich.console.Console(highlight=False), record.read_place(run.where)
    if run.process is None:
        console.print(
            f"It runs already, with other settings; `{place.kci('down')}` first to change them."
            if run.differs
            else "It runs already.",
            markup=False,
            soft_wrap=True,
        )
    interrupted = INTERRUPTED
    try:
        state = _follow(console, run, until=record.StackState.READY)
        if state.state is not record.StackState.READY:
            return _tell_end(console, state)
        _print(console, table.plan_summary(state, state_dir=str(run.where.root)))
        if not stay or run.process is None:
            return 0
        console.print("Ctrl-C stops it.")
        # From here on Ctrl-C is how it is meant to end.
        interrupted = 0
        return _tell_end(console, _follow(console, run))
    except KeyboardInterrupt:
        if run.process is None:
            return INTERRUPTED
        return _show_interrupt(console, run) or interrupted


def _show_interrupt(console: rich.console.Console, run: lifecycle.Run) -> int:
    console.print("stopping")
    lifecycle.interrupt(run)
    try:
        return _tell_end(console, _follow(console, run, timeout_s=DOWN_TIMEOUT_S))
    except KeyboardInterrupt:
        status = record.read_place(run.where).kci("status")
        _print(console, [f"It goes on stopping without us; `{status}` shows how far it is."])
        return INTERRUPTED


def show_down(run: lifecycle.Run | None) -> int:
    console = rich.console.Console(highlight=False)
    if run is None:
        console.print("Nothing runs.")
        return 0
    return _tell_end(console, _follow(console, run, timeout_s=DOWN_TIMEOUT_S))


def show_status(state: record.State | None, *, as_json: bool) -> int:
    """Exit code 0 if the stack is ready."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(to_status(state)), indent=1).decode())
    else:
        _show_table(state)
    return 0 if state and state.state is record.StackState.READY else 1


def to_status(state: record.State | None) -> Status:
    if state is None:
        return Status(state=record.StackState.STOPPED, parts=[])
    return Status(
        state=state.state,
        started_in_s=state.started_in_s,
        node_name=state.node_name,
        kubeconfig=state.kubeconfig,
        kci_endpoint=state.kci_endpoint,
        kci_region=state.kci_region,
        env_file=state.env_file,
        netns=state.netns,
        gateway=state.gateway,
        images=state.images,
        warnings=state.warnings,
        failure=state.failure,
        parts=[
            PartStatus(
                name=part.name,
                state=part.state,
                pid=part.process.pid if part.process else None,
                version=part.version,
                log_file=part.log_file,
                restarts=part.restarts,
                started_in_s=part.started_in_s,
                detail=part.detail,
            )
            for part in state.parts
        ],
    )


def _show_table(state: record.State | None) -> None:
    console = rich.console.Console(highlight=False)
    if state is None:
        console.print("stopped: nothing was started yet; `kci up` does")
        return
    if state.parts:
        console.print(table.render(table.plan_rows(state)), "")
    _print(console, [*table.plan_place(state), *(table.plan_failure(state) if state.failure else ())])


def _follow(
    console: rich.console.Console,
    run: lifecycle.Run,
    *,
    until: record.StackState | None = None,
    timeout_s: float | None = None,
) -> record.State:
    """Show each account until the run has ended or has come to this state; returns the last one."""
    last: record.State | None = None
    with _shown(console) as show:
        for state in lifecycle.follow(run, timeout_s=timeout_s):
            # A run that was going on before is no news; what it does from now on is.
            show(state if last is None and run.found else last, state)
            last = state
            if state.state is until:
                break
    assert last is not None
    return last


@contextlib.contextmanager
def _shown(
    console: rich.console.Console,
) -> Iterator[Callable[[record.State | None, record.State], None]]:
    if not console.is_terminal:
        yield lambda before, now: _print(console, table.plan_news(before, now))
        return
    with rich.live.Live(console=console, auto_refresh=False) as live:
        yield lambda _before, now: live.update(
            table.render(table.plan_rows(now)) if now.parts else "", refresh=True
        )


def _tell_end(console: rich.console.Console, state: record.State) -> int:
    if state.state is record.StackState.STOPPED:
        _print(console, table.plan_farewell(state))
        return 0
    _print(rich.console.Console(stderr=True, highlight=False, style="red"), table.plan_failure(state))
    return 1


def _print(console: rich.console.Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
