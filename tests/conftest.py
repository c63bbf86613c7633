"""Rules that every test keeps: no task is left behind, and unit tests talk to this machine only."""

import asyncio
import inspect
import ipaddress
import sys

import hypothesis
import pytest

# On a busy machine any example may take long.
hypothesis.settings.register_profile("kci", deadline=None)
hypothesis.settings.load_profile("kci")
# In tests/harness. requirements.py: the marker `requirement`, the fixture `runs`, the table at the end;
# outputs.py: no secret in what a test wrote; time_limits.py: a test that hangs fails.
pytest_plugins = ["requirements", "outputs", "time_limits"]
_LOOPS_A_TASK_MAY_TAKE_TO_END = 10
_watched = {"on": False}


@pytest.fixture(autouse=True)
def _leaves_no_task(request):
    """A coroutine test fails if a task of its own still runs after it and its fixtures ended."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        # First of all fixtures, so that it is the last to be torn down.
        request.getfixturevalue("_tasks_ended")


@pytest.fixture
async def _tasks_ended():
    before = asyncio.all_tasks()
    yield
    for _ in range(_LOOPS_A_TASK_MAY_TAKE_TO_END):
        left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail("left running: " + ", ".join(sorted(task.get_name() for task in left)))


@pytest.fixture(autouse=True)
def _stays_on_loopback(request):
    """Unit and contract tests may connect to loopback and unix sockets, and look up no other name."""
    _watched["on"] = not {"integration", "e2e"} & {mark.name for mark in request.node.iter_markers()}
    yield
    _watched["on"] = False


def _refuse_the_outside(event, arguments):
    if not _watched["on"] or event not in {"socket.connect", "socket.getaddrinfo"}:
        return
    target = arguments[1] if event == "socket.connect" else (arguments[0],)
    if isinstance(target, tuple) and not _is_loopback(target[0]):
        raise AssertionError(f"a unit test may not talk to {target[0]}")


def _is_loopback(host):
    if host in {None, "", "localhost", b"localhost"}:
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


# An audit hook sees every connection, whichever library makes it, and needs no patch.
sys.addaudithook(_refuse_the_outside)
