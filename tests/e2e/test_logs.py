"""Logs through kubectl: across rotation, from a moment on, and of a container that is started again."""

import subprocess
import time

import pytest
from line import eventually, pod

pytestmark = pytest.mark.e2e

LINES, LINE_BYTES = 30_000, 1100


def test_a_followed_log_has_no_gap_where_it_is_rotated(line):
    """Some 33 MB in numbered lines, written over more than two of the kcilet's looks: a file of ours may grow
    past its limit between two of them, and a reader is in the middle of it when it is put aside.
    """
    script = (
        f"n=0; pad=$(printf '%0{LINE_BYTES}d' 0); while [ $n -lt {LINES} ]; do "
        "i=0; while [ $i -lt 1000 ]; do echo $n $pad; n=$((n+1)); i=$((i+1)); done; sleep 0.9; done"
    )
    line.apply(pod("many", script, restartPolicy="Never"))
    eventually(lambda: line.get("pod", "many")["status"].get("phase") == "Running", what="it writes")
    began_s = time.monotonic()
    with subprocess.Popen(line.kubectl_argv("logs", "-f", "many"), stdout=subprocess.PIPE) as follower:
        numbers = [int(text.split(None, 1)[0]) for text in follower.stdout]
    files = sorted(path.name for path in (line.where.kcilet / "logs" / "pods").glob("*_many_*/main/*"))
    print(f"{len(numbers)} lines in {time.monotonic() - began_s:.0f} s; files: {files}")
    assert follower.returncode == 0
    assert numbers == list(range(LINES))
    assert len(files) >= 2, "nothing was rotated, so nothing was shown"
    line.kubectl("delete", "pod", "many")


def test_only_what_was_said_since_a_moment_is_shown(line):
    line.apply(pod("timed", "for n in 1 2 3 4; do echo line $n; sleep 1; done", restartPolicy="Never"))
    eventually(lambda: line.get("pod", "timed")["status"].get("phase") == "Succeeded", what="it has ended")
    stamped = [text.split(" ", 1) for text in line.kubectl("logs", "--timestamps", "timed").splitlines()]
    assert [said for _, said in stamped] == ["line 1", "line 2", "line 3", "line 4"]
    # To the nanosecond for kubectl, to the second for the API: what the moment's second held is shown.
    since = stamped[2][0]
    shown = line.kubectl("logs", f"--since-time={since}", "timed").splitlines()
    second = since.partition(".")[0]
    assert shown == [said for at, said in stamped if at.partition(".")[0] >= second]
    assert shown[-2:] == ["line 3", "line 4"]
    assert "line 1" not in shown
    assert line.kubectl("logs", "--since-time=2999-01-01T00:00:00Z", "timed") == ""
    line.kubectl("delete", "pod", "timed")


def test_a_followed_log_ends_with_its_container_and_the_attempt_before_is_kept(line):
    """As with a kubelet: a stream is of one attempt, and the next one is asked for anew."""
    line.apply(
        pod(
            "again",
            "n=$(cat /kept/n 2>/dev/null || echo 0); echo $((n+1)) > /kept/n;"
            "echo attempt $n; until [ -e /kept/go$n ]; do sleep 0.1; done; echo end of $n; exit 3",
            container={"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]},
            volumes=[{"name": "kept", "emptyDir": {}}],
        )
    )
    line.wait_ready("pod/again")
    with subprocess.Popen(
        line.kubectl_argv("logs", "-f", "again"), stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout.readline() == "attempt 0\n"
        line.kubectl("exec", "again", "--", "touch", "/kept/go0")
        assert follower.stdout.read() == "end of 0\n"
    assert follower.returncode == 0
    eventually(lambda: restarted(line, "again") == 1, what="it runs again")
    eventually(lambda: line.kubectl("logs", "again") == "attempt 1\n", what="the new attempt's log")
    assert line.kubectl("logs", "--previous", "again") == "attempt 0\nend of 0\n"
    assert line.run_kubectl("logs", "-f", "--previous", "again").stdout == "attempt 0\nend of 0\n"
    line.kubectl("delete", "pod", "again", "--grace-period=1")


def restarted(line, name):
    """How often, once it runs again."""
    status = line.get("pod", name)["status"]["containerStatuses"][0]
    return status["restartCount"] if "running" in status["state"] else 0
