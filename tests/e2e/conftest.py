import os
import shutil

import collector
import guard as guard_module
import leftovers
import line as lines
import needs
import pytest


def why_not() -> str:
    """Why this machine cannot run the line, or nothing."""
    if os.geteuid() != 0:
        return "the whole line needs root"
    missing = [
        program for program in ("containerd", "runc", "ip", "nsenter") if shutil.which(program) is None
    ]
    return f"not installed: {', '.join(missing)} (run `make test`)" if missing else ""


@pytest.fixture(scope="session", autouse=True)
def _machine_can_run_the_line():
    needs.demand(why_not())


@pytest.fixture(scope="session")
def line():
    """One running stack for all tests that do not stop it; at the end nothing of it may be left."""
    stack = lines.new_line()
    before = leftovers.machine(stack.state_dir)
    try:
        stack.kci(
            "up",
            "--detach",
            "--netns",
            stack.netns,
            "--metrics-server",
            *guard_module.UP,
            environment=collector.VARIABLES,
        )
        # In the state folder, where the guard looks for secrets.
        with collector.beside(stack.inside, stack.state_dir / collector.FILE):
            yield stack
    finally:
        stack.kci("down", "--purge", check=False)
        left = leftovers.processes(str(stack.state_dir), stack.netns)
        after = leftovers.machine(stack.state_dir)
    assert not left
    for what, seen in after.items():
        assert seen - before[what] == frozenset(), f"left behind: {what}"
    assert not stack.state_dir.exists()


@pytest.fixture(scope="session")
def guard(line):
    """Watches the line; at the end no secret may stand in anything that it wrote or shows."""
    watching = guard_module.Guard(line)
    watching.start()
    try:
        yield watching
        watching.at_end()
    finally:
        watching.stop()


@pytest.fixture(autouse=True)
def _guarded(request):
    """After each test on the line nothing of it is left, and no invariant was broken."""
    if "line" not in request.fixturenames:
        yield
        return
    with request.getfixturevalue("guard").around():
        yield
