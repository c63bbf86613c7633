"""What the rules for Services are read from, and what they name; what they do is tested on real links."""

import pytest

from kci.kcilet import ports
from kci.kcilet.drivers.network import service_rules

RULES = service_rules.Rules("br0-services")
KEY = ports.ServiceAddress("10.96.0.10", "tcp", 80)
ONE, TWO = ports.Endpoint("10.0.0.1", 8080), ports.Endpoint("10.0.0.2", 8080)
NAME = service_rules.outlook_name("c/u/vn1")


def change(old, put, gone=(), *, whole=False):
    kept = service_rules.kept_with(NAME, old)
    return RULES.change(NAME, old, ports.ServiceChange(put, frozenset(gone), is_whole=whole), kept)


def test_a_change_of_one_service_touches_no_other():
    others = {ports.ServiceAddress("10.96.0.11", "tcp", port): ports.Backend((ONE,)) for port in range(1, 50)}
    text = change({**others, KEY: ports.Backend((ONE,))}, {KEY: ports.Backend((ONE, TWO))})
    assert "10.96.0.11" not in text
    assert len(text.splitlines()) < 12


def test_nothing_to_change_is_nothing_to_do():
    assert change({KEY: ports.Backend((ONE,))}, {}) == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ports.Backend((ONE,)), ports.Backend((ONE, TWO))),
        (ports.Backend((ONE,), 60), ports.Backend((ONE,))),
        (ports.Backend((ONE, TWO), 60), ports.Backend((TWO,), 90)),
        (ports.Backend(()), ports.Backend((TWO,), 90)),
    ],
)
def test_what_the_kernel_has_after_a_change_is_known(before, after):
    first = service_rules.kept_with(NAME, {KEY: before})
    then = service_rules.kept_with(NAME, {KEY: after}, first)
    text = change({KEY: before}, {KEY: after})
    for kind, names in (("chain", then.chains - first.chains), ("set", then.sets - first.sets)):
        assert all(f"add {kind} inet br0-services {name}" in text for name in names)
    for name in first.chains - then.chains:
        assert f"delete chain inet br0-services {name}" in text


def test_members_and_outlooks_are_read_back():
    listed = [
        {"metainfo": {}},
        {"map": {"name": "members", "elem": [
            [{"elem": {"val": "10.0.0.5", "comment": "kv1"}}, {"goto": {"target": NAME}}],
            ["10.0.0.6", {"goto": {"target": NAME}}],
        ]}},
    ]  # fmt: skip
    assert service_rules.members_of(listed) == [service_rules.Member("kv1", "10.0.0.5", NAME)]
    assert service_rules.members_of([{"map": {"name": "members"}}]) == []
    named = [{"chain": {"name": NAME}}, {"chain": {"name": f"{NAME}-n3"}}, {"map": {"name": f"{NAME}-e3"}},
             {"chain": {"name": "prerouting"}}, {"set": {"name": f"{NAME}-ips"}}, {"rule": {}}]  # fmt: skip
    found = service_rules.outlooks_of(named)
    assert found == {
        NAME: service_rules.Kept(
            frozenset({NAME, f"{NAME}-n3"}), frozenset({f"{NAME}-e3"}), frozenset({f"{NAME}-ips"})
        )
    }
