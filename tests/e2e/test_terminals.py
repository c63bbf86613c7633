"""`kubectl exec -it` and `kubectl attach -it` at a real terminal, through the whole line."""

import pytest
import terminal
from line import eventually, is_ready, pod, restarts

pytestmark = pytest.mark.e2e

SIZE, LARGER = {"rows": 31, "columns": 97}, {"rows": 43, "columns": 133}
CONTROL_C = "\x03"
SHELL = pod("terminal", container={"stdin": True, "tty": True, "command": ["/bin/sh"]})


@pytest.fixture(scope="module")
def shell(line):
    """A pod whose own process is a shell at a terminal."""
    line.apply(SHELL)
    line.wait_ready("pod/terminal")
    yield line
    line.kubectl("delete", "pod", "terminal", "--now")


def _as_shown(size):
    return rf"\b{size['rows']} {size['columns']}\b"


@pytest.fixture(params=["WebSocket", "SPDY"])
def way(request, monkeypatch):
    """kubectl's environment; a variable is how it is told."""
    if request.param == "SPDY":
        monkeypatch.setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")


@pytest.mark.requirement("R27")
def test_a_command_at_a_terminal_knows_its_size_its_keys_and_its_end(shell, way):
    argv = shell.kubectl_argv("exec", "-it", "terminal", "--", "sh")
    with terminal.Terminal(argv, **SIZE) as seen:
        seen.ask("stty size", _as_shown(SIZE))
        seen.resize(**LARGER)
        seen.ask("stty size", _as_shown(LARGER))
        # The key is for what runs then: it has to run.
        seen.type("(echo be''gun; exec sleep 1000)\n")
        seen.wait_for("begun")
        seen.type(CONTROL_C)
        # The key ended the command in the pod, and neither the shell there nor kubectl here.
        seen.type("echo ended-$?\n")
        seen.wait_for("ended-130")
        seen.type("exit 7\n")
        assert seen.exit_code() == 7


@pytest.mark.requirement("R27")
def test_a_person_attached_types_into_the_containers_own_terminal(shell, way):
    argv = shell.kubectl_argv("attach", "-it", "terminal")
    with terminal.Terminal(argv, **SIZE) as seen:
        seen.ask("stty size", _as_shown(SIZE))
        seen.resize(**LARGER)
        seen.ask("stty size", _as_shown(LARGER))
        seen.type("echo $((6*7))-$$\n")
        # The container's first process.
        seen.wait_for("42-1\\b")
    # Its client was killed; it goes on.
    state = shell.get("pod", "terminal")
    assert is_ready(state)
    assert restarts(state) == 0


def test_a_shell_that_its_person_left_ends_and_is_started_again(line):
    line.apply(SHELL | {"metadata": {"name": "left"}})
    line.wait_ready("pod/left")
    with terminal.Terminal(line.kubectl_argv("attach", "-it", "left"), **SIZE) as seen:
        seen.ask("echo here-$((6*7))", "here-42")
        seen.type("exit 3\n")
        seen.exit_code()
    eventually(lambda: restarts(line.get("pod", "left")) == 1, what="it is started again")
    state = line.get("pod", "left")["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert state["exitCode"] == 3
    line.wait_ready("pod/left")
    line.kubectl("delete", "pod", "left", "--now")
