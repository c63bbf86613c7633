"""Init containers: one after another before all others, as with a kubelet; and those that are sidecars."""

import asyncio
import dataclasses

import msgspec
import pytest
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kcilet.plan import actions, histories, records, reports, statuses, steps
from kci.kube import models
from kci.link import types as link

pytestmark = pytest.mark.guide("limit initContainers")
Phase = ports.ContainerPhase
Program = machine_world.Program
on_virtual_time, world = kcilet_world.on_virtual_time, kcilet_world.world
app, ready = kcilet_world.app, kcilet_world.ready
NS = 1_000_000_000


# ---- what is decided -------------------------------------------------------------------------------


def box(number, *, is_ready=True):
    return ports.SeenSandbox(f"box{number}", "uid-1", "default", "web", number, is_ready, number, "10.0.0.9")


def record(name, phase, code=0, *, attempt=0, sandbox=0):
    return ports.SeenContainer(
        f"{name}-{attempt}",
        f"box{sandbox}",
        name,
        attempt,
        phase,
        exit_code=code,
        started_at_ns=0 if phase is Phase.CREATED else 100 * NS,
        finished_at_ns=200 * NS if phase is Phase.EXITED else 0,
    )


def done(name, **more):
    return record(name, Phase.EXITED, 0, **more)


def failed(name, **more):
    return record(name, Phase.EXITED, 1, **more)


def running(name, **more):
    return record(name, Phase.RUNNING, **more)


def starting(name):
    """It runs, and its startup probe has not succeeded yet."""
    return dataclasses.replace(running(name), health=ports.Health(started=False, ready=False))


BOXES = (box(0),)


def seen(*found, boxes=BOXES):
    return ports.SeenPod("uid-1", tuple(boxes), tuple(found))


def plan(pod, what, **changes):
    images = {one.name: ports.ImageRef("sha256:x") for one in pod.spec.all_containers}
    history = histories.History(first_seen_s=0.0, laid_out="", images=images)
    world = steps.World(wish=histories.Wish.RUN, pod=pod, seen=what, now_s=1000.0, **changes)
    return steps.plan(world, history)


def started(pod, what):
    return [one.container for one in plan(pod, what).asked if isinstance(one, actions.StartContainer)]


RAN = (done("i"), done("j"))


@pytest.mark.parametrize(
    ("policy", "found", "starts"),
    [
        ("Always", (), ["i"]),
        ("Always", (record("i", Phase.CREATED),), ["i"]),
        ("Always", (running("i"),), []),
        ("Always", (done("i"),), ["j"]),
        ("Always", (failed("i"),), ["i"]),
        ("OnFailure", (failed("i"),), ["i"]),
        ("Never", (failed("i"),), []),
        ("Always", (failed("i"), done("i", attempt=1)), ["j"]),
        ("Always", (done("i"), running("j")), []),
        ("Always", (done("i"), failed("j")), ["j"]),
        ("Always", RAN, ["a", "b"]),
        ("Never", RAN, ["a", "b"]),
        ("Always", (*RAN, running("a")), ["b"]),
        # What is left of them tells of those before, and a container after them of all.
        ("Always", (done("j"),), ["a", "b"]),
        ("Always", (running("a"), running("b")), []),
        ("Always", (running("a"), failed("b")), ["b"]),
        ("Never", (done("a"), running("b")), []),
    ],
)
def test_each_has_its_turn_when_the_one_before_has_succeeded(policy, found, starts):
    pod = machine_world.pod(containers=("a", "b"), init=("i", "j"), policy=policy)
    assert started(pod, seen(*found)) == starts


@pytest.mark.parametrize("policy", ["Always", "OnFailure"])
def test_in_a_new_sandbox_all_begins_anew(policy):
    pod = machine_world.pod(containers=("a", "b"), init=("i", "j"), policy=policy)
    former, now = (*RAN, done("a"), failed("b")), (box(1), box(0, is_ready=False))
    assert started(pod, seen(*former, boxes=now)) == ["i"]
    again = done("i", attempt=1, sandbox=1), done("j", attempt=1, sandbox=1)
    assert started(pod, seen(*former, again[0], boxes=now)) == ["j"]
    others = ["b"] if policy == "OnFailure" else ["a", "b"]
    assert started(pod, seen(*former, *again, boxes=now)) == others


def test_nothing_is_started_before_there_is_a_sandbox_again():
    pod = machine_world.pod(init=("i", "j"))
    lost = seen(*RAN, running("app"), boxes=(box(0, is_ready=False),))
    asked = plan(pod, lost).asked
    assert [type(action) for action in asked] == [actions.StopContainer]


@pytest.mark.parametrize(
    ("found", "starts"),
    [
        ((), ["s"]),
        ((running("s"),), ["j"]),
        ((starting("s"),), []),
        ((starting("s"), done("j")), ["app"]),
        # It comes back by itself, whatever its end was, and the others do not wait for that.
        ((done("s"),), ["s"]),
        ((done("s"), running("j")), ["s"]),
        ((running("s"), done("j")), ["app"]),
        ((failed("s"), done("j")), ["s", "app"]),
        ((failed("s"), done("j"), running("app")), ["s"]),
        ((running("s"), done("j"), running("app")), []),
        ((running("app"),), ["s"]),
    ],
)
def test_a_sidecar_runs_from_its_turn_on(found, starts):
    pod = machine_world.pod(init=("s", "j"), sidecars=("s",), policy="Never")
    assert started(pod, seen(*found)) == starts


def test_a_pod_is_over_with_its_containers_whatever_its_sidecars_do():
    pod = machine_world.pod(init=("s", "t"), sidecars=("s", "t"), policy="Never")
    what = seen(running("s"), running("t"), done("app"))
    decision = plan(pod, what)
    assert decision.stage is steps.Stage.ENDING
    assert [action.container for action in decision.asked] == ["t"]
    decision = plan(pod, seen(running("s"), done("t"), done("app")))
    assert [action.container for action in decision.asked] == ["s"]


@pytest.mark.parametrize(
    ("used_s", "left_s"),
    [(0.0, 30), (0.5, 30), (12.0, 18), (29.0, 2), (50.0, 2)],
)
def test_sidecars_have_what_the_others_left_of_the_grace_period(used_s, left_s):
    pod = machine_world.pod(init=("s",), sidecars=("s",))
    ended = dataclasses.replace(done("app"), finished_at_ns=int((1000.0 + used_s) * NS))
    ending = histories.Ending(histories.Wish.REMOVE, 30, since_s=1000.0)
    history = histories.History(first_seen_s=0.0, ending=ending)
    what = seen(running("s"), ended)
    facts = {"wish": histories.Wish.REMOVE, "pod": deleted(pod), "seen": what}
    for now_s in (1000.0 + used_s, 1005.0 + used_s):
        decision = steps.plan(steps.World(now_s=now_s, **facts), history)
        assert [action.grace_s for action in decision.asked] == [left_s]


def deleted(pod):
    meta = msgspec.structs.replace(
        pod.metadata, deletion_timestamp="2026-01-01T00:00:00Z", deletion_grace_period_seconds=30
    )
    return msgspec.structs.replace(pod, metadata=meta)


# ---- what is told ----------------------------------------------------------------------------------


def told(pod, what, *, stage=steps.Stage.RUNNING, now_s=1000.0, **history):
    facts = statuses.Facts(
        pod=pod,
        seen=what,
        history=histories.History(first_seen_s=0.0, **history),
        stage=stage,
        now_s=now_s,
    )
    return statuses.to_status(facts)


def condition(status, kind):
    return next(one for one in status.conditions if one.type == kind)


def state(status):
    """One word for a container's state."""
    if status.state.running is not None:
        return "running"
    if status.state.terminated is not None:
        return f"{status.state.terminated.reason} {status.state.terminated.exit_code}"
    return status.state.waiting.reason


INIT = "PodInitializing"


@pytest.mark.parametrize(
    ("found", "states", "phase", "incomplete"),
    [
        ((), [INIT, INIT, INIT], "Pending", "i j"),
        ((record("i", Phase.CREATED),), [INIT, INIT, INIT], "Pending", "i j"),
        ((running("i"),), ["running", INIT, INIT], "Pending", "i j"),
        ((done("i"),), ["Completed 0", INIT, INIT], "Pending", "j"),
        ((failed("i"),), ["Error 1", INIT, INIT], "Pending", "i j"),
        (RAN, ["Completed 0", "Completed 0", INIT], "Pending", ""),
        ((*RAN, running("app")), ["Completed 0", "Completed 0", "running"], "Running", ""),
        # Nothing is left of an init container: the container after it says how it ended.
        ((done("j"), running("app")), ["Completed 0", "Completed 0", "running"], "Running", ""),
    ],
)
def test_the_status_tells_whose_turn_it_is(found, states, phase, incomplete):
    pod = machine_world.pod(init=("i", "j"))
    status = told(pod, seen(*found))
    assert [state(one) for one in status.all_containers] == states
    assert status.phase == phase
    initialized = condition(status, "Initialized")
    if incomplete:
        assert (initialized.status, initialized.reason) == ("False", "ContainersNotInitialized")
        assert initialized.message == f"containers with incomplete status: [{incomplete}]"
    else:
        assert (initialized.status, initialized.reason, initialized.message) == ("True", "", "")
    assert [one.ready for one in status.init_container_statuses] == [
        text == "Completed 0" for text in states[:2]
    ]
    assert all(one.ready == (phase == "Running") for one in status.container_statuses)


def test_a_pod_whose_init_container_failed_for_good_has_failed():
    pod = machine_world.pod(init=("i", "j"), policy="Never")
    what = seen(failed("i"), boxes=(box(0, is_ready=False),))
    assert records.is_over(pod, seen(failed("i")))
    status = told(pod, what, stage=steps.Stage.ENDED, ending=histories.Ending(histories.Wish.END, 30))
    assert status.phase == "Failed"
    # As a kubelet leaves them: what had no turn waits for ever.
    assert [state(one) for one in status.all_containers] == ["Error 1", INIT, INIT]
    assert condition(status, "Ready").reason == "PodFailed"
    again = told(msgspec.structs.replace(pod, status=status), seen(), stage=steps.Stage.GONE)
    assert [state(one) for one in again.all_containers] == ["Error 1", INIT, INIT]


def test_what_keeps_one_from_running_again_is_told_once():
    """Its record is gone and its image as well, so it runs once more: told from what was told before."""
    pod = machine_world.pod(init=("i",))
    pod = msgspec.structs.replace(pod, status=told(pod, seen(done("i"))))
    failure = histories.Failure("ErrImagePull", "no such image", 990.0, histories.backoff.Delay(10.0, 990.0))
    failures = {actions.image_subject("i"): failure}
    first = told(pod, seen(), failures=failures)
    assert state(first.init_container_statuses[0]) == "ImagePullBackOff"
    assert told(msgspec.structs.replace(pod, status=first), seen(), failures=failures) == first


def test_a_pod_has_not_failed_before_its_sidecars_have_ended():
    pod = machine_world.pod(init=("s", "i"), sidecars=("s",), policy="Never")
    what = seen(running("s"), failed("i"))
    assert [action.container for action in plan(pod, what).asked] == ["s"]
    ending = histories.Ending(histories.Wish.END, 30)
    assert told(pod, what, stage=steps.Stage.ENDING, ending=ending).phase == "Pending"
    what = seen(done("s"), failed("i"))
    assert told(pod, what, stage=steps.Stage.ENDING, ending=ending).phase == "Failed"


@pytest.mark.parametrize(
    ("found", "states"),
    [
        # Nobody knows how it ended; those after it never began.
        ((), ["ContainerStatusUnknown 137", INIT, INIT]),
        ((done("i"), record("j", Phase.CREATED)), ["Completed 0", INIT, INIT]),
        (RAN, ["Completed 0", "Completed 0", "ContainerStatusUnknown 137"]),
        ((done("i"), failed("j")), ["Completed 0", "Error 1", INIT]),
    ],
)
def test_a_pod_that_was_cut_off_while_it_began_has_failed(found, states):
    pod = machine_world.pod(init=("i", "j"))
    ending = histories.Ending(histories.Wish.REMOVE, 30)
    what = seen(*found, boxes=(box(0, is_ready=False),))
    status = told(deleted(pod), what, stage=steps.Stage.ENDED, ending=ending)
    assert [state(one) for one in status.all_containers] == states
    assert status.phase == "Failed"


def test_a_pod_that_did_its_work_beside_a_sidecar_has_succeeded():
    pod = machine_world.pod(init=("s",), sidecars=("s",), policy="Never")
    what = seen(record("s", Phase.EXITED, 137), done("app"), boxes=(box(0, is_ready=False),))
    ending = histories.Ending(histories.Wish.END, 30)
    assert told(pod, what, stage=steps.Stage.ENDED, ending=ending).phase == "Succeeded"


def test_the_service_hears_what_an_init_container_waits_for():
    pod = machine_world.pod(init=("i",))
    failure = histories.Failure("ErrImagePull", "no such image", 990.0, histories.backoff.Delay(10.0, 990.0))
    status = told(pod, seen(), failures={actions.image_subject("i"): failure})
    report = reports.to_report(
        machine_world.group(),
        stage=steps.Stage.RUNNING,
        history=histories.History(first_seen_s=0.0),
        seen=seen(),
        status=status,
    )
    assert (report.reason, report.phase) == ("ImagePullBackOff", link.Phase.PENDING)
    fresh = told(pod, seen())
    assert reports._waiting(fresh) == ("", "")


# ---- what is done ----------------------------------------------------------------------------------


def init(it, number=0):
    return it.cluster.status("uid-1").init_container_statuses[number]


def initialized(it):
    return condition(it.cluster.status("uid-1"), "Initialized").status


def now_s():
    return asyncio.get_running_loop().time()


def having(it, **programs):
    """Have the images of these names, and what they do."""
    for name, program in programs.items():
        it.runtime.registry.add(f"{name}:1")
        it.runtime.programs[f"{name}:1"] = program


@on_virtual_time
async def test_init_containers_that_are_quick_cost_no_status_write():
    async with world(init=("i", "j")) as it:
        having(it, i=Program(runs_s=0.2), j=Program(runs_s=0.2))
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        assert it.runtime.begun() == ["i", "j", "app"]
        assert len(it.cluster.patches) == 1
        assert [state(init(it, number)) for number in (0, 1)] == ["Completed 0", "Completed 0"]
        assert it.cluster.reasons() == [
            "Pulling", "Pulled", "Created", "Started",
            "Pulling", "Pulled", "Created", "Started",
            "Pulled", "Created", "Started",
        ]  # fmt: skip


@on_virtual_time
async def test_how_far_slow_ones_are_is_told():
    async with world(init=("i", "j")) as it:
        having(it, i=Program(runs_s=20.0), j=Program(runs_s=20.0))
        await it.start(machine_world.group())
        began_s = now_s()
        await it.until(lambda: it.cluster.patches)
        assert now_s() - began_s < 3
        assert [state(init(it, 0)), state(init(it, 1)), state(app(it))] == ["running", INIT, INIT]
        assert initialized(it) == "False"
        await it.until(lambda: state(init(it, 1)) == "running")
        assert now_s() - began_s < 24
        assert "app" not in it.runtime.begun()
        await it.until(lambda: ready(it) == "True")
        assert now_s() - began_s < 41
        assert initialized(it) == "True"
        assert len(it.cluster.patches) == 3


@on_virtual_time
async def test_one_that_fails_is_tried_again_after_growing_delays():
    async with world(init=("i",)) as it:
        having(it, i=Program(runs_s=0.5, code=1))
        it.drivers.volumes.pods["uid-1"]["message-i-0"] = b"no database"
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches and init(it).last_state.terminated is not None)
        assert init(it).last_state.terminated.message == "no database"
        await it.until(lambda: state(init(it)) == "CrashLoopBackOff" and init(it).restart_count == 3)
        assert it.cluster.status("uid-1").phase == "Pending"
        assert it.agent.reports.get("g-1").reason == "CrashLoopBackOff"
        assert set(it.runtime.begun()) == {"i"}
        # As often as a kubelet: at once, then after 10 and 20 seconds.
        assert len(it.runtime.begun()) == 4
        assert 30 <= now_s() - 1000 < 40
        it.runtime.programs["i:1"] = Program(runs_s=0.5)
        await it.until(lambda: ready(it) == "True")
        assert (init(it).restart_count, init(it).ready, app(it).restart_count) == (4, True, 0)


@on_virtual_time
async def test_one_that_fails_ends_a_pod_that_never_tries_again():
    async with world(init=("i", "j"), policy="Never") as it:
        having(it, i=Program(runs_s=0.5, code=3))
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.status("uid-1").phase == "Failed")
        await it.until_phase(link.Phase.FAILED)
        await asyncio.sleep(100)
        assert it.runtime.begun() == ["i"]
        assert [state(init(it, 0)), state(init(it, 1)), state(app(it))] == ["Error 3", INIT, INIT]
        assert it.runtime.containers, "its log would be gone"
        assert not any(one.ready for one in it.runtime.sandboxes.values())


@on_virtual_time
async def test_a_deletion_ends_the_one_that_runs_and_begins_no_other():
    async with world(init=("i", "j")) as it:
        having(it, i=Program(stops_in_s=1.0, stop_code=0), j=Program())
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches and state(init(it)) == "running")
        it.cluster.delete("uid-1", grace_s=30)
        await it.until_phase(link.Phase.GONE)
        assert it.runtime.begun() == ["i"]
        assert it.cluster.status("uid-1").phase == "Failed"
        assert not any(it.left())


@on_virtual_time
async def test_the_deadline_counts_them():
    async with world(init=("i",), active_deadline_seconds=10) as it:
        having(it, i=Program())
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.status("uid-1").phase == "Failed")
        assert 9 < now_s() - 1000 < 12
        assert it.cluster.status("uid-1").reason == "DeadlineExceeded"
        assert it.runtime.begun() == ["i"]


@on_virtual_time
async def test_a_kcilet_that_comes_back_repeats_none():
    async with world(init=("i", "j")) as it:
        having(it, i=Program(runs_s=5.0), j=Program(runs_s=30.0))
        await it.start(machine_world.group())
        await it.until(lambda: it.runtime.begun() == ["i", "j"])
        await it.kill()
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        await it.kill()
        # Those that are done may be gone from the runtime.
        it.runtime.containers = {k: c for k, c in it.runtime.containers.items() if c.name == "app"}
        await it.start(machine_world.group())
        await it.until_phase(link.Phase.RUNNING)
        patches = len(it.cluster.patches)
        await asyncio.sleep(60)
        assert it.runtime.begun() == ["i", "j", "app"]
        assert len(it.cluster.patches) == patches


@on_virtual_time
async def test_after_the_loss_of_the_sandbox_they_run_again():
    async with world(init=("i", "j")) as it:
        having(it, i=Program(runs_s=1.0), j=Program(runs_s=1.0))
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.runtime.kill_sandbox("uid-1")
        await it.until(lambda: app(it).restart_count == 1 and ready(it) == "True")
        assert it.runtime.begun() == ["i", "j", "app"] * 2
        assert [init(it, number).restart_count for number in (0, 1)] == [1, 1]


@on_virtual_time
async def test_an_image_that_is_missing_is_told_before_the_next_is_pulled():
    async with world(init=("i",), image="new:1") as it:
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches and state(init(it)) == "ImagePullBackOff")
        assert it.agent.reports.get("g-1").reason == "ImagePullBackOff"
        assert {call for call in it.runtime.calls if call[0] == "pull_image"} == {("pull_image", "i:1")}
        having(it, i=Program(runs_s=0.1), new=Program())
        await it.until(lambda: ready(it) == "True")


@on_virtual_time
async def test_one_waits_for_the_config_map_of_its_environment():
    async with world(init=("i",)) as it:
        having(it, i=Program(runs_s=0.1))
        pod = it.cluster.pods["uid-1"]
        source = models.EnvFromSource(config_map_ref=models.EnvFromRef(name="settings"))
        needy = msgspec.structs.replace(pod.spec.init_containers[0], env_from=(source,))
        spec = msgspec.structs.replace(pod.spec, init_containers=(needy,))
        it.cluster.put(msgspec.structs.replace(pod, spec=spec))
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.patches and state(init(it)) == "CreateContainerConfigError")
        await asyncio.sleep(300)
        appeared_s = now_s()
        it.cluster.put_config_map("settings", {"A": "1"})
        await it.until(lambda: ready(it) == "True")
        assert now_s() - appeared_s < 1


@on_virtual_time
async def test_sidecars_begin_first_come_back_and_end_last():
    async with world(init=("s", "i"), sidecars=("s",)) as it:
        having(it, s=Program(stops_in_s=1.0, stop_code=0), i=Program(runs_s=1.0))
        it.runtime.programs["app:1"] = Program(stops_in_s=4.0)
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        assert it.runtime.begun() == ["s", "i", "app"]
        it.runtime.exit("s", 0)
        await it.until(lambda: init(it).restart_count == 1 and ready(it) == "True")
        assert it.runtime.begun() == ["s", "i", "app", "s"]
        it.cluster.delete("uid-1", grace_s=30)
        await it.until_phase(link.Phase.GONE)
        stops = [call[1:] for call in it.runtime.calls if call[0] == "stop_container"]
        assert [grace_s for _, grace_s in stops] == [30, 26]
        assert it.cluster.status("uid-1").phase == "Succeeded"
        assert not any(it.left())


@on_virtual_time
async def test_what_others_write_over_them_is_written_again():
    async with world(init=("i",)) as it:
        having(it, i=Program(runs_s=0.1))
        await it.start(machine_world.group())
        await it.until(lambda: ready(it) == "True")
        it.runtime.kill_sandbox("uid-1")
        await it.until(lambda: app(it).restart_count == 1 and ready(it) == "True")
        before = it.cluster.status("uid-1").init_container_statuses
        # Only what was told knows the restart count once the record is gone.
        it.runtime.containers = {k: c for k, c in it.runtime.containers.items() if c.name != "i"}
        for overwritten in ((), (msgspec.structs.replace(before[0], restart_count=0),)):
            pod = it.cluster.pods["uid-1"]
            status = msgspec.structs.replace(pod.status, init_container_statuses=overwritten)
            it.cluster.put(msgspec.structs.replace(pod, status=status))
            await asyncio.sleep(300)
            assert it.cluster.status("uid-1").init_container_statuses == before


@on_virtual_time
async def test_a_job_is_done_though_its_sidecar_would_run_on():
    async with world(init=("s",), sidecars=("s",), policy="OnFailure") as it:
        having(it, s=Program())
        it.runtime.programs["app:1"] = Program(runs_s=5.0)
        await it.start(machine_world.group())
        await it.until(lambda: it.cluster.status("uid-1").phase == "Succeeded")
        assert now_s() - 1000 < 10
        assert it.runtime.begun() == ["s", "app"]


@pytest.mark.parametrize("step", ["pull_image", "run_sandbox", "create_container", "start_container"])
@pytest.mark.parametrize("turn", [1, 2])
def test_a_kcilet_that_was_killed_at_a_step_goes_on_in_order(step, turn):
    @on_virtual_time
    async def run():
        async with world(init=("i", "j")) as it:
            having(it, i=Program(runs_s=1.0), j=Program(runs_s=1.0))
            it.runtime.delays_s[step] = 0.5
            await it.start(machine_world.group())
            await it.until(lambda: it.runtime.names().count(step) >= min(turn, 1 + (step != "run_sandbox")))
            await it.kill()
            it.runtime.delays_s[step] = 0.0
            await it.start(machine_world.group())
            await it.until(lambda: ready(it) == "True")
            assert it.runtime.most_live_sandboxes == 1
            assert [one.name for one in it.runtime.containers.values()] == ["i", "j", "app"]
            assert [one.restart_count for one in it.cluster.status("uid-1").all_containers] == [0, 0, 0]

    run()
