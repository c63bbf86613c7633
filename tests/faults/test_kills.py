"""Each of our programs killed at random moments, again and again, while pods come and go."""

import contextlib
import time

import between
import client_streams
import line as lines
import pytest
import traffic

# A second at most where nothing else is to be done; the rest is for a machine that is busy.
CLIENT_ENDS_S = 10
POD_END_S = 15

pytestmark = [pytest.mark.e2e, pytest.mark.faults]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("virtual-kubelet", marks=pytest.mark.requirement("R01")),
        pytest.param("kci-service", marks=pytest.mark.requirement("R03")),
        pytest.param("kcilet", marks=pytest.mark.requirement("R05")),
    ],
)
def test_pods_go_on_and_deletions_too(line, recorder, standing, runs, part):
    chance = runs.random()
    with line.by_hand(part) as program, traffic.Churn(line, chance, pause_s=0.5) as churn:
        for _ in range(runs.scale(quick=3, faults=10, release=200)):
            # The moment is what is tested: any may come, so it is no state that one could wait for.
            time.sleep(chance.uniform(0.1, 3))
            recorder.note("away", part)
            program.kill()
            time.sleep(chance.uniform(0, 1))
            program.start()
            recorder.note("back", part)
    churn.wait_gone()
    assert churn.refused == []
    assert churn.created


@pytest.fixture
def streamed(line):
    """The name of a pod to open streams to."""
    line.apply(client_streams.pod("streamed"))
    try:
        line.wait_ready("pod/streamed")
        yield "streamed"
    finally:
        line.kubectl("delete", "pod", "streamed", "--timeout=60s", timeout_s=90)


@pytest.mark.requirement("R05", "R27")
@pytest.mark.parametrize("part", ["kube-apiserver", "virtual-kubelet", "kci-service", "kcilet"])
def test_streams_end_at_both_ends_when_a_program_between_them_is_killed(
    line, recorder, standing, streamed, runs, part
):
    """One of each kind at once. Nobody but the kcilet can end what runs in a container, so where that is
    killed it is the next one that does; that it left nothing open is looked at by the guard.
    """
    ways = list(client_streams.WAYS.items())
    with line.by_hand(part) as program:
        for run in range(runs.scale(quick=1, faults=2, release=20)):
            way, variables = ways[run % len(ways)]
            # It has only just been started.
            lines.eventually(
                lambda: line.run_kubectl("exec", streamed, "--", "true").returncode == 0,
                what=f"{part} serves",
            )
            with contextlib.ExitStack() as opened:
                streams = {
                    kind: opened.enter_context(open_(line, streamed, variables))
                    for kind, open_ in client_streams.KINDS.items()
                }
                recorder.note("away", part)
                clock = client_streams.Clock()
                program.kill()
                clients_s = clock.times(
                    {kind: stream.is_over for kind, stream in streams.items()}, timeout_s=CLIENT_ENDS_S
                )
                code = streams["exec"].kubectl.returncode
                if part == "kcilet":
                    program.start()
                    clock = client_streams.Clock()
                held_s = clock.times(
                    {kind: lambda stream=stream: not stream.is_held() for kind, stream in streams.items()},
                    timeout_s=POD_END_S,
                )
            if part != "kcilet":
                program.start()
            recorder.note("back", part)
            print(f"{part} killed, {way}: s until the clients' ends {clients_s}, the pod's {held_s}")
            # Over SPDY kubectl takes a connection that broke for a command that ended well, whoever broke it
            # (client-go's remotecommand/errorstream.go), so only those behind the node can tell it otherwise.
            if way == "WebSocket" or part in {"kci-service", "kcilet"}:
                assert code != 0, "the client believes that the command has ended well"


@pytest.mark.requirement("R22")
def test_readiness_does_not_flap_when_the_node_starts_again(line, recorder, standing, runs):
    chance = runs.random()
    with line.by_hand("virtual-kubelet") as program, traffic.Churn(line, chance) as churn:
        for _ in range(runs.scale(quick=3, faults=20, release=50)):
            program.kill()
            program.start()
            lines.eventually(
                lambda: lines.listens(program.process, between.NODE_PORT), what="the node serves again"
            )
            # Killed while it is at work as well as when it has settled.
            time.sleep(chance.uniform(0, 2))
    churn.wait_gone()
    assert churn.refused == []
    assert churn.created
