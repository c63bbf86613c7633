import scenarios
from scenarios import Answer, Cut, Delay, Exchange, Play, Rule, Scenario, When

POD = Exchange("api", "kcilet", "PATCH", "/api/v1/namespaces/a/pods/b/status")
LEASE = Exchange("api", "virtual-kubelet", "PUT", "/apis/coordination.k8s.io/v1/leases/n")


def decisions(scenario, seed, exchanges):
    play = Play(scenario, seed)
    return [play.decide(exchange) for exchange in exchanges]


def test_a_rule_is_about_the_exchanges_that_all_its_patterns_match():
    rule = Rule(Cut(), client="kcilet", method="PATCH", path="/status$")
    assert decisions(Scenario("s", (rule,)), 1, [POD, LEASE]) == [Cut(), None]


def test_the_first_rule_that_fires_decides():
    scenario = Scenario("s", (Rule(Delay(1), times=1), Rule(Cut())))
    assert decisions(scenario, 1, [POD, POD]) == [Delay(1), Cut()]


def test_skip_and_times_count_the_rules_own_matches():
    scenario = Scenario("s", (Rule(Cut(), path="pods", skip=1, times=2),))
    assert decisions(scenario, 1, [POD, LEASE, POD, LEASE, POD, POD]) == [
        None, None, Cut(), None, Cut(), None,
    ]  # fmt: skip


def test_a_seed_replays_and_another_does_not():
    scenario = Scenario("s", scenarios.mixed(0.5, (Cut(), Answer(503), Cut(When.BEFORE))))
    first = decisions(scenario, 7, [POD] * 200)
    assert decisions(scenario, 7, [POD] * 200) == first
    assert decisions(scenario, 8, [POD] * 200) != first


def test_what_happens_to_one_rules_exchanges_does_not_depend_on_what_runs_beside_them():
    scenario = Scenario("s", (Rule(Cut(), path="pods", share=0.5), Rule(Delay(1), path="leases", share=0.5)))
    alone = decisions(scenario, 3, [POD] * 50)
    mingled = decisions(scenario, 3, [exchange for _ in range(50) for exchange in (LEASE, POD)])
    assert mingled[1::2] == alone


def test_a_mixture_befalls_about_its_share():
    scenario = Scenario("s", scenarios.mixed(0.05, (Cut(), Answer(503))))
    hit = [fault for fault in decisions(scenario, 11, [POD] * 4000) if fault]
    assert 120 <= len(hit) <= 280
    assert set(hit) == {Cut(), Answer(503)}
