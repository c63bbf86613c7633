"""What probes are run, when, and what follows from their results: plain values."""

import dataclasses

import hypothesis
import msgspec
import pytest
from fakes import machine_world
from hypothesis import strategies as st

from kci.kcilet import ports
from kci.kcilet.plan import probes, records
from kci.kube import models

Kind, Verdict, Phase = probes.Kind, probes.Verdict, ports.ContainerPhase
NS = 1_000_000_000
STARTED_S = 1_000
ALL = ("startup_probe", "readiness_probe", "liveness_probe")


def http(**fields):
    return models.Probe(http_get=models.HTTPGetAction(port=8080), **fields)


def pod(*, containers=None, **found):
    """One container `app` with these probes."""
    app = models.Container(name="app", ports=(models.ContainerPort(container_port=81, name="web"),), **found)
    return models.Pod(spec=models.PodSpec(containers=containers or (app,)))


def record(identifier="c1", phase=Phase.RUNNING, attempt=0, name="app"):
    return ports.SeenContainer(
        id=ports.ContainerId(identifier),
        sandbox_id=ports.SandboxId("box"),
        name=name,
        attempt=attempt,
        phase=phase,
        started_at_ns=STARTED_S * NS,
    )


def seen(*records):
    return ports.SeenPod(pod_uid=models.PodUid("u"), containers=records or (record(),))


def health(of, runs, standings):
    return probes.with_health(of, runs, standings).containers[0].health


def duty(of, kind, **changes):
    standings = {**probes.follow(of, seen(), {}), **changes}
    return next(one for one in probes.duties(of, seen(), standings, is_ending=False) if one.key.kind is kind)


def told(*, ready, started=True, identifier="c1"):
    """The pod's status as it was last written."""
    return models.PodStatus(
        container_statuses=(
            models.ContainerStatus(
                name="app", ready=ready, started=started, container_id=f"containerd://{identifier}"
            ),
        )
    )


def with_status(of, status):
    return models.Pod(metadata=of.metadata, spec=of.spec, status=status)


def after(of, kind, *results):
    """The standing of a probe of a fresh container after these results."""
    of_duty = duty(of, kind)
    standing = probes.follow(of, seen(), {})[of_duty.key]
    for result in results:
        standing = probes.count(standing, of_duty, succeeded=result)
    return standing


def test_a_container_without_probes_is_well_once_it_runs():
    assert health(pod(), seen(), {}) == ports.Health(started=True, ready=True, failed="")


def test_at_first_a_container_is_live_and_not_ready():
    of = pod(readiness_probe=http(), liveness_probe=http())
    standings = probes.follow(of, seen(), {})
    assert health(of, seen(), standings) == ports.Health(started=True, ready=False, failed="")


def test_nothing_else_is_probed_before_the_startup_probe_has_succeeded():
    of = pod(**dict.fromkeys(ALL, http()))
    standings = probes.follow(of, seen(), {})
    assert not health(of, seen(), standings).started
    assert [one.key.kind for one in probes.duties(of, seen(), standings, is_ending=False)] == [Kind.STARTUP]
    standings = {**standings, probes.Key("c1", Kind.STARTUP): probes.Standing(Verdict.SUCCESS)}
    assert health(of, seen(), standings) == ports.Health(started=True, ready=False, failed="")
    found = {one.key.kind for one in probes.duties(of, seen(), standings, is_ending=False)}
    assert found == {Kind.READINESS, Kind.LIVENESS}


def test_a_failed_startup_or_liveness_probe_is_not_run_any_more_and_told():
    of = pod(startup_probe=http())
    failed = {probes.Key("c1", Kind.STARTUP): probes.Standing(Verdict.FAILURE)}
    assert health(of, seen(), failed).failed == "Startup"
    assert probes.duties(of, seen(), failed, is_ending=False) == []
    of = pod(liveness_probe=http())
    failed = {probes.Key("c1", Kind.LIVENESS): probes.Standing(Verdict.FAILURE)}
    assert health(of, seen(), failed) == ports.Health(started=True, ready=True, failed="Liveness")
    assert probes.duties(of, seen(), failed, is_ending=False) == []


def test_when_the_pod_ends_only_readiness_is_probed_on():
    of = pod(readiness_probe=http(), liveness_probe=http())
    standings = probes.follow(of, seen(), {})
    found = [one.key.kind for one in probes.duties(of, seen(), standings, is_ending=True)]
    assert found == [Kind.READINESS]


@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.EXITED, Phase.UNKNOWN])
def test_what_does_not_run_is_not_probed(phase):
    of, runs = pod(readiness_probe=http()), seen(record(phase=phase))
    assert probes.duties(of, runs, probes.follow(of, runs, {}), is_ending=False) == []


def test_a_new_attempt_begins_anew_and_the_old_one_is_forgotten():
    of = pod(liveness_probe=http())
    failed = {probes.Key("c1", Kind.LIVENESS): probes.Standing(Verdict.FAILURE)}
    runs = seen(record("c2", attempt=1), record("c1", Phase.EXITED))
    standings = probes.follow(of, runs, failed)
    assert standings == {probes.Key("c2", Kind.LIVENESS): probes.Standing(Verdict.SUCCESS)}


def test_thresholds_count_results_in_a_row():
    of = pod(readiness_probe=http(success_threshold=2, failure_threshold=3))
    assert after(of, Kind.READINESS, True).verdict is Verdict.FAILURE
    assert after(of, Kind.READINESS, True, False, True).verdict is Verdict.FAILURE
    ready = (True, True)
    assert after(of, Kind.READINESS, *ready).verdict is Verdict.SUCCESS
    assert after(of, Kind.READINESS, *ready, False, False, True, False, False).verdict is Verdict.SUCCESS
    assert after(of, Kind.READINESS, *ready, False, False, False).verdict is Verdict.FAILURE


@hypothesis.given(
    results=st.lists(st.booleans(), max_size=30),
    wins=st.integers(1, 4),
    losses=st.integers(1, 4),
)
def test_readiness_is_what_the_last_row_that_is_long_enough_says(results, wins, losses):
    of = pod(readiness_probe=http(success_threshold=wins, failure_threshold=losses))
    expected = False
    for end in range(1, len(results) + 1):
        until = results[:end]
        if all(until[-wins:]) and len(until) >= wins:
            expected = True
        if not any(until[-losses:]) and len(until) >= losses:
            expected = False
    verdict = after(of, Kind.READINESS, *results).verdict
    assert verdict is (Verdict.SUCCESS if expected else Verdict.FAILURE)


@hypothesis.given(results=st.lists(st.booleans(), max_size=20), losses=st.integers(1, 4))
def test_what_ends_a_container_stays(results, losses):
    for kind, field in ((Kind.LIVENESS, "liveness_probe"), (Kind.STARTUP, "startup_probe")):
        of = pod(**{field: http(failure_threshold=losses)})
        verdicts = [after(of, kind, *results[:end]).verdict for end in range(len(results) + 1)]
        if Verdict.FAILURE in verdicts:
            first = verdicts.index(Verdict.FAILURE)
            assert set(verdicts[first:]) == {Verdict.FAILURE}
            assert not any(results[first - losses : first])


@pytest.mark.parametrize("was_ready", [True, False])
def test_after_a_restart_of_ours_readiness_is_what_was_last_told(was_ready):
    of = with_status(pod(**dict.fromkeys(ALL, http())), told(ready=was_ready))
    standings = probes.follow(of, seen(), {})
    assert health(of, seen(), standings) == ports.Health(started=True, ready=was_ready, failed="")


def test_what_was_told_of_another_attempt_says_nothing():
    of = with_status(pod(readiness_probe=http()), told(ready=True, identifier="c0"))
    assert not health(of, seen(), probes.follow(of, seen(), {})).ready


def test_a_container_that_had_not_started_when_we_restarted_has_still_to_start():
    of = with_status(pod(startup_probe=http()), told(ready=False, started=False))
    assert not health(of, seen(), probes.follow(of, seen(), {})).started


@pytest.mark.parametrize(
    ("delay", "now_s", "spread", "expected"),
    [
        (0, STARTED_S + 0.5, None, STARTED_S + 0.5),
        (30, STARTED_S + 0.5, None, STARTED_S + 30),
        (30, STARTED_S + 90, None, STARTED_S + 90),
        # Containers from before our start are not all probed at once.
        (0, STARTED_S + 90, 0.25, STARTED_S + 92.5),
        (300, STARTED_S + 90, 0.25, STARTED_S + 300),
    ],
)
def test_the_first_probe_waits_for_its_delay(delay, now_s, spread, expected):
    of_duty = duty(pod(liveness_probe=http(initial_delay_seconds=delay, period_seconds=10)), Kind.LIVENESS)
    assert probes.first_at_s(of_duty, now_s=now_s, spread=spread) == expected


def test_sidecars_are_probed_and_init_containers_are_not():
    sidecar = models.Container(name="s", restart_policy="Always", readiness_probe=http())
    init = models.Container(name="i", readiness_probe=http())
    of = models.Pod(spec=models.PodSpec(init_containers=(init, sidecar)))
    runs = seen(record("c1", name="i"), record("c2", name="s"))
    standings = probes.follow(of, runs, {})
    found = [one.container.name for one in probes.duties(of, runs, standings, is_ending=False)]
    assert found == ["s"]


# ---- what a probe does ------------------------------------------------------------------------------


def check(probe, **container):
    of = pod(liveness_probe=probe, **container)
    return probes.to_check(duty(of, Kind.LIVENESS), "10.0.0.9")


def get(**fields):
    return check(models.Probe(http_get=models.HTTPGetAction(**fields)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"port": 80}, ("http", "10.0.0.9", 80, "/")),
        ({"port": "web", "path": "healthz"}, ("http", "10.0.0.9", 81, "/healthz")),
        ({"port": "8081", "scheme": "HTTPS"}, ("https", "10.0.0.9", 8081, "/")),
        ({"port": 80, "host": "other", "path": "/a?b=c d&e=%20"}, ("http", "other", 80, "/a?b=c%20d&e=%20")),
        ({"port": 80, "path": "/ä b"}, ("http", "10.0.0.9", 80, "/%C3%A4%20b")),
        ({"port": 80, "path": ""}, ("http", "10.0.0.9", 80, "/")),
    ],
)
def test_where_a_get_goes(fields, expected):
    found = get(**fields)
    assert (found.scheme, found.host, found.port, found.target) == expected


def test_headers_may_be_given_twice():
    headers = (models.HTTPHeader(name="A", value="1"), models.HTTPHeader(name="A", value="2"))
    assert get(port=80, http_headers=headers).headers == (("A", "1"), ("A", "2"))


@pytest.mark.parametrize("port", ["nowhere", 0, 70000, "0"])
def test_a_port_that_is_none_is_told(port):
    with pytest.raises(probes.UnresolvableError, match=r"no port named 'nowhere'|invalid port number"):
        get(port=port)


def test_a_probe_without_an_action_is_told():
    with pytest.raises(probes.UnresolvableError, match="has no action"):
        check(models.Probe())


def test_a_command_knows_the_values_that_stand_in_the_pod():
    env = (models.EnvVar(name="WHERE", value="/tmp/up"), models.EnvVar(name="LATER", value_from=None))
    probe = models.Probe(exec=models.ExecAction(command=("test", "-f", "$(WHERE)", "$(NONE)", "$$(WHERE)")))
    assert check(probe, env=env) == ports.ExecCheck("c1", ("test", "-f", "/tmp/up", "$(NONE)", "$(WHERE)"))


def test_connections_and_grpc_go_to_the_pods_address():
    tcp = check(models.Probe(tcp_socket=models.TCPSocketAction(port="web")))
    assert tcp == ports.TcpCheck("box", "10.0.0.9", 81)
    grpc = check(models.Probe(grpc=models.GRPCAction(port=9000, service="liveness")))
    assert grpc == ports.GrpcCheck("box", "10.0.0.9", 9000, "liveness")


def test_a_probe_may_give_its_container_a_grace_period_of_its_own():
    container = models.Container(name="app", liveness_probe=http(termination_grace_period_seconds=3))
    assert probes.grace_s(container, "Liveness") == 3
    assert probes.grace_s(container, "Startup") is None


def test_probes_are_read_as_the_api_server_writes_them():
    text = (
        b'{"metadata":{},"spec":{"containers":[{"name":"app","livenessProbe":{"httpGet":{"path":"/z",'
        b'"port":"web","scheme":"HTTPS","httpHeaders":[{"name":"A","value":"b"}]},"initialDelaySeconds":3,'
        b'"timeoutSeconds":2,"periodSeconds":5,"successThreshold":1,"failureThreshold":4},"readinessProbe":'
        b'{"tcpSocket":{"port":80}},"startupProbe":{"grpc":{"port":9,"service":""}}}]}}'
    )
    container = msgspec.json.decode(text, type=models.Pod).spec.containers[0]
    assert container.liveness_probe.http_get.http_headers[0].name == "A"
    assert container.liveness_probe.failure_threshold == 4
    assert container.readiness_probe.tcp_socket.port == 80
    assert container.startup_probe.grpc.port == 9


def test_what_a_probe_stopped_is_restarted_whatever_its_exit_code():
    of = machine_world.pod(policy="OnFailure")
    ended = dataclasses.replace(record(phase=Phase.EXITED), health=ports.Health(failed="Liveness"))
    assert records.should_run(of, of.spec.containers[0], seen(ended))
    assert not records.should_run(of, of.spec.containers[0], seen(record(phase=Phase.EXITED)))
