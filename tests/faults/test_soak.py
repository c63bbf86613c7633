"""A node under load and faults for a long time. `make faults` runs this file beside the others."""

import time

import heartbeats
import line as lines
import pytest
import scenarios
import traffic
from scenarios import Scenario

pytestmark = [pytest.mark.e2e, pytest.mark.faults]


@pytest.mark.requirement("R23")
def test_heartbeats_come_on_time_under_load_and_faults(line, recorder, standing, runs, between):
    soak_s = runs.scale(quick=30, faults=600, release=3600)
    runs.count = 1
    harm = Scenario("5 % of everything", scenarios.mixed(0.05, scenarios.HARM))
    with (
        between.api_server(reads_http=True) as api,
        between.service("virtual-kubelet") as service,
        lines.Watch(line, heartbeats.LEASES) as leases,
        lines.Watch(line, "/api/v1/nodes") as nodes,
    ):
        api.play(harm, seed=runs.seed)
        service.play(harm, seed=runs.seed)
        with traffic.busy_processors(), traffic.Churn(line, runs.random()) as churn:
            time.sleep(soak_s)
        api.heal()
        service.heal()
        churn.wait_gone()
    gaps = heartbeats.renew_gaps(leases)
    faults = len(api.log) + len(service.log)
    print(f"{len(gaps)} renewals, p99 gap {heartbeats.p99(gaps):.1f} s; {faults} faults")
    assert api.log
    assert len(gaps) >= soak_s / 15
    assert heartbeats.p99(gaps) <= 15
    assert heartbeats.not_ready(nodes) == []
