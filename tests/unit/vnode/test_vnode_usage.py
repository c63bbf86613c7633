"""What pods use, as the kubelet API tells it: rates, the Summary API, and the metrics of resources."""

import dataclasses
import json

import msgspec
import pytest
from fakes import kubelet_api, kubelet_peers, vnode_world
from hypothesis import given
from hypothesis import strategies as st

from kci.kube import models
from kci.vnode import provider
from kci.vnode.usage import keeper, resource_metrics, samples, summary

S = 1_000_000_000
T0 = 1_700_000_000 * S


def usage(at_s=0.0, cpu_s=0.0, **more):
    return provider.Usage(time_ns=T0 + int(at_s * S), cpu_core_ns=int(cpu_s * S), **more)


def pod_usage(uid="u", at_s=0.0, cpu_s=0.0, *, started_at_ns=T0 - 60 * S, **more):
    container = provider.ContainerUsage(
        name="c", started_at_ns=started_at_ns, usage=usage(at_s, cpu_s, **more)
    )
    return provider.PodUsage(
        pod_uid=models.PodUid(uid),
        started_at_ns=T0 - 61 * S,
        usage=usage(at_s, cpu_s, processes=2, **more),
        traffic=provider.Traffic(received_bytes=10, sent_bytes=20),
        containers=(container,),
    )


def sample(*pods, at_s=0.0, before=None, known=("u", "v")):
    return samples.next_sample(before, pods, time_ns=T0 + int(at_s * S), known=known)


def view(now, before=None):
    pods = {uid: vnode_world.pod(uid) for uid in ("u", "v")}
    return keeper.View(T0 - 3600 * S, pods, now, before)


# ---- rates -----------------------------------------------------------------------------------------


def test_a_rate_is_what_was_used_between_two_samples():
    before, now = sample(pod_usage(cpu_s=1)), pod_usage(at_s=10, cpu_s=6)
    assert samples.pod_rate(before, now) == S // 2
    assert samples.container_rate(before, now, now.containers[0]) == S // 2


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (None, pod_usage(at_s=10, cpu_s=6)),
        (sample(), pod_usage(at_s=10, cpu_s=6)),
        (sample(pod_usage(at_s=10, cpu_s=1)), pod_usage(at_s=10, cpu_s=6)),
        (sample(pod_usage(cpu_s=7)), pod_usage(at_s=10, cpu_s=6)),
    ],
    ids=["first sample", "new pod", "no time between", "began anew"],
)
def test_there_is_no_rate_without_two_readings_of_one_counter(before, now):
    assert samples.pod_rate(before, now) is None
    assert samples.container_rate(before, now, now.containers[0]) is None


def test_a_container_that_was_started_again_has_a_counter_of_its_own():
    before, now = sample(pod_usage(cpu_s=1)), pod_usage(at_s=10, cpu_s=6, started_at_ns=T0)
    assert samples.container_rate(before, now, now.containers[0]) is None
    assert samples.pod_rate(before, now) == S // 2


def test_the_nodes_counter_goes_on_when_a_pod_goes():
    one = sample(pod_usage("u", cpu_s=5), pod_usage("v", cpu_s=3))
    two = sample(pod_usage("v", 10, cpu_s=4), at_s=10, before=one, known=("v",))
    assert (one.node_cpu_core_ns, two.node_cpu_core_ns) == (8 * S, 9 * S)
    assert samples.node_rate(one, two) == S // 10
    assert samples.node_rate(None, two) is None


def test_a_pod_that_one_sample_misses_is_not_counted_twice():
    """As while the instance agent starts anew."""
    one = sample(pod_usage("u", cpu_s=500))
    two = sample(at_s=10, before=one)
    three = sample(pod_usage("u", 20, cpu_s=501), at_s=20, before=two)
    assert three.node_cpu_core_ns == 501 * S


def test_a_pod_that_the_node_does_not_know_is_counted_once():
    one = sample(pod_usage("w", cpu_s=3600))
    two = sample(pod_usage("w", 10, cpu_s=3601), at_s=10, before=one)
    three = sample(pod_usage("w", 20, cpu_s=3602), at_s=20, before=two)
    assert [now.node_cpu_core_ns for now in (one, two, three)] == [3600 * S, 3601 * S, 3602 * S]


UIDS = st.sampled_from("uvw")


@given(st.lists(st.tuples(st.dictionaries(UIDS, st.integers(0, 100)), st.sets(UIDS)), max_size=10))
def test_the_nodes_counter_never_goes_back_and_never_counts_more_than_was_used(readings):
    before, used = None, 0
    last = {}
    for number, (reading, known) in enumerate(readings):
        pods = [pod_usage(uid, number, cpu_s) for uid, cpu_s in reading.items()]
        now = sample(*pods, at_s=number, before=before, known=known)
        # One that is neither known nor found has gone: who comes by that name later is counted anew.
        last = {uid: cpu_s for uid, cpu_s in last.items() if uid in known or uid in reading}
        for uid, cpu_s in reading.items():
            used += cpu_s - last.get(uid, 0) if cpu_s >= last.get(uid, 0) else cpu_s
            last[uid] = cpu_s
        assert now.node_cpu_core_ns == used * S
        assert before is None or now.node_cpu_core_ns >= before.node_cpu_core_ns
        before = now


# ---- the Summary API -------------------------------------------------------------------------------


def test_the_summary_is_the_kubelets():
    figures = {
        "memory_bytes": 3000, "working_set_bytes": 2000, "rss_bytes": 1000, "page_faults": 5,
        "major_page_faults": 0, "memory_limit_bytes": 8000,
    }  # fmt: skip
    before = sample(pod_usage(cpu_s=1, **figures))
    now = sample(pod_usage(at_s=10, cpu_s=6, **figures), at_s=10, before=before)
    told = summary.to_summary(view(now, before), node_name="vn", only_cpu_and_memory=False)
    at = "2023-11-14T22:13:30Z"
    cpu = {"time": at, "usageNanoCores": 500_000_000, "usageCoreNanoSeconds": 6_000_000_000}
    memory = {
        "time": at, "usageBytes": 3000, "workingSetBytes": 2000, "rssBytes": 1000, "pageFaults": 5,
        "majorPageFaults": 0,
    }  # fmt: skip
    interface = {"name": "eth0", "rxBytes": 10, "rxErrors": 0, "txBytes": 20, "txErrors": 0}
    meta = vnode_world.pod("u").metadata
    assert json.loads(msgspec.json.encode(told)) == {
        "node": {"nodeName": "vn", "startTime": "2023-11-14T21:13:20Z", "cpu": cpu, "memory": memory},
        "pods": [
            {
                "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": "u"},
                "startTime": "2023-11-14T22:12:19Z",
                "containers": [
                    {
                        "name": "c",
                        "startTime": "2023-11-14T22:12:20Z",
                        "cpu": cpu,
                        "memory": memory | {"availableBytes": 6000},
                    }
                ],
                "cpu": cpu,
                "memory": memory | {"availableBytes": 6000},
                "network": {"time": at, **interface, "interfaces": [interface]},
                "process_stats": {"process_count": 2},
            }
        ],
    }


def test_only_cpu_and_memory_is_only_that():
    told = summary.to_summary(view(sample(pod_usage())), node_name="vn", only_cpu_and_memory=True)
    (pod,) = json.loads(msgspec.json.encode(told))["pods"]
    assert set(pod) == {"podRef", "startTime", "containers", "cpu", "memory"}
    # The first sample has no rate, and no limit leaves nothing to be available.
    assert set(pod["cpu"]) == {"time", "usageCoreNanoSeconds"}
    assert "availableBytes" not in pod["memory"]


def test_a_provider_that_cannot_tell_gives_an_empty_and_valid_answer():
    told = summary.to_summary(view(None), node_name="vn", only_cpu_and_memory=False)
    node = {"nodeName": "vn", "startTime": "2023-11-14T21:13:20Z"}
    assert json.loads(msgspec.json.encode(told)) == {"node": node, "pods": []}
    assert "resource_scrape_error 0\n" in resource_metrics.to_text(view(None))


def test_a_pod_that_the_node_does_not_know_is_not_told():
    found = view(sample(pod_usage("w"), pod_usage("u")))
    told = summary.to_summary(found, node_name="vn", only_cpu_and_memory=False)
    assert [pod.pod_ref.uid for pod in told.pods] == ["u"]
    assert resource_metrics.to_text(found).count("pod_cpu_usage_seconds_total{") == 1


# ---- metrics ---------------------------------------------------------------------------------------


EXPOSED = """\
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in \
core-seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="default",pod="web"} 0.25 1700000001500
# HELP container_memory_working_set_bytes [STABLE] Current working set of the container in bytes
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="c",namespace="default",pod="web"} 50 1700000001500
# HELP container_start_time_seconds [STABLE] Start time of the container since unix epoch in seconds
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="c",namespace="default",pod="web"} 1699999940.5
# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 0.25 1700000003000
# HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 50 1700000003000
# HELP pod_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the pod in core-seconds
# TYPE pod_cpu_usage_seconds_total counter
pod_cpu_usage_seconds_total{namespace="default",pod="web"} 0.25 1700000001500
# HELP pod_memory_working_set_bytes [STABLE] Current working set of the pod in bytes
# TYPE pod_memory_working_set_bytes gauge
pod_memory_working_set_bytes{namespace="default",pod="web"} 50 1700000001500
# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise
# TYPE resource_scrape_error gauge
resource_scrape_error 0
"""


def test_the_metrics_of_resources_are_the_kubelets():
    used = pod_usage(at_s=1.5, cpu_s=0.25, started_at_ns=T0 - 60 * S + S // 2, working_set_bytes=50)
    assert resource_metrics.to_text(view(sample(used, at_s=3))) == EXPOSED


def test_what_could_not_be_had_is_told_by_one_metric_alone():
    assert resource_metrics.to_text(None) == EXPOSED[EXPOSED.index("# HELP resource_") :].replace(
        " 0\n", " 1\n"
    )


# ---- over TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return kubelet_peers.Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def api(authority):
    async with kubelet_api.running(authority) as found:
        yield found


async def test_who_may_scrape_gets_both(api):
    api.usage.found = (pod_usage(cpu_s=1), pod_usage("unknown"))
    async with api.session(user="watcher") as session:
        async with session.get("/stats/summary") as response:
            told = await response.json()
            assert [pod["podRef"]["uid"] for pod in told["pods"]] == ["u"]
            assert "usageNanoCores" not in told["pods"][0]["cpu"]
        api.usage.found = (pod_usage(at_s=1, cpu_s=2),)
        async with session.get("/stats/summary?only_cpu_and_memory=true") as response:
            told = await response.json()
            assert told["pods"][0]["cpu"]["usageNanoCores"] == S
            assert "network" not in told["pods"][0]
        async with session.get("/metrics/resource") as response:
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert 'pod_cpu_usage_seconds_total{namespace="default"' in await response.text()


async def test_who_may_create_may_post_for_the_summary_as_with_a_kubelet(api):
    api.reviewer.allowed.add(("poster", "create", "stats"))
    async with api.session(user="poster") as session, session.post("/stats/summary") as response:
        assert response.status == 200


async def test_a_provider_that_does_not_answer_is_told_as_the_kubelet_tells_it(api):
    api.usage.found = provider.UnavailableError("KciUnavailable", "cannot reach the service")
    async with api.session(user="watcher") as session:
        async with session.get("/stats/summary") as response:
            assert (response.status, await response.text()) == (
                500,
                "Internal Error: cannot reach the service",
            )
        async with session.get("/metrics/resource") as response:
            assert response.status == 200
            assert "resource_scrape_error 1\n" in await response.text()


class Clock:
    def now(self):
        return vnode_world.datetime.datetime.fromtimestamp(T0 // S, vnode_world.datetime.UTC)


async def test_many_scrapes_ask_the_provider_once():
    source = kubelet_peers.Usage()
    source.found = (pod_usage(),)
    kept = keeper.UsageKeeper(source, pods=dict, clock=Clock())
    views = [await kept.view() for _ in range(20)]
    assert source.reads == 1
    assert len({id(found.now) for found in views}) == 1
    assert dataclasses.asdict(views[0]) == dataclasses.asdict(views[-1])
