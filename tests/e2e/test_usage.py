"""What pods use, on the whole line: as metrics-server asks the API server for it."""

import json

import pytest
from line import IDLE, eventually, pod

pytestmark = pytest.mark.e2e

BUSY, CALM = "busy", "calm"
GONE = ("delete", "--wait=true", "--ignore-not-found", "--now")
# Half a core at most: others use the machine as well.
HALF = {"resources": {"limits": {"cpu": "500m"}}}


@pytest.fixture(scope="module")
def pods(line, guard):
    line.apply(pod(BUSY, "while :; do :; done", container=HALF), pod(CALM, IDLE))
    line.wait_ready(f"pod/{BUSY}", f"pod/{CALM}")
    yield line
    line.kubectl(*GONE, "pod", BUSY, CALM)


def ask(line, path):
    (node,) = line.get("nodes")["items"]
    return line.kubectl("get", "--raw", f"/api/v1/nodes/{node['metadata']['name']}/proxy/{path}")


def of(summary, name):
    return next((one for one in summary["pods"] if one["podRef"]["name"] == name), None)


def test_the_summary_tells_who_is_busy_and_who_is_not(pods):
    def both_have_rates():
        summary = json.loads(ask(pods, "stats/summary"))
        found = [of(summary, name) for name in (BUSY, CALM)]
        return summary if all(one and "usageNanoCores" in one["cpu"] for one in found) else None

    summary = eventually(both_have_rates, timeout_s=60)
    busy, calm = of(summary, BUSY), of(summary, CALM)
    assert busy["cpu"]["usageNanoCores"] > 20 * calm["cpu"]["usageNanoCores"]
    assert summary["node"]["cpu"]["usageCoreNanoSeconds"] >= busy["cpu"]["usageCoreNanoSeconds"]
    (container,) = busy["containers"]
    assert 0 < container["memory"]["workingSetBytes"] <= busy["memory"]["workingSetBytes"]
    assert busy["network"]["name"] == "eth0"
    assert busy["podRef"]["uid"] == pods.get("pod", BUSY)["metadata"]["uid"]


def test_the_metrics_of_resources_grow_as_time_goes(pods):
    def cpu_s():
        text = ask(pods, "metrics/resource")
        assert "resource_scrape_error 0" in text
        lines = [line for line in text.splitlines() if line.startswith("pod_cpu_usage_seconds_total{")]
        return next((float(line.split()[1]) for line in lines if f'pod="{BUSY}"' in line), None)

    first = eventually(cpu_s)
    eventually(lambda: (cpu_s() or 0) > first)


def test_only_cpu_and_memory_is_only_that(pods):
    found = of(json.loads(ask(pods, "stats/summary?only_cpu_and_memory=true")), CALM)
    assert "memory" in found
    assert "network" not in found


def test_each_program_tells_of_itself_on_loopback(pods):
    choices = json.loads(pods.where.choices.read_text())
    for program, shown in {
        "node": 'kci_virtual_kubelet_pod_start_seconds_count{phase="ready"} ',
        "service": 'kci_service_call_seconds_count{action="CreateContainerGroup",code="OK"} ',
        "kcilet": 'kci_kcilet_cri_call_seconds_count{call="RunPodSandbox",code="OK"} ',
    }.items():
        text = pods.http(f"http://127.0.0.1:{choices[f'{program}_metrics_port']}/metrics")
        assert any(line.startswith(shown) and float(line.split()[-1]) >= 1 for line in text.splitlines())
