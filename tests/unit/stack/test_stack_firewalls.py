import re

from kci.stack import otherfirewalls, settings, trial, typed


def plan(*chains, legacy_tables=(), place=typed.USUAL):
    return otherfirewalls.plan_warnings(
        chains, firewalld=(), legacy_tables=legacy_tables, bridge="kci-abcdef", place=place
    )


def test_of_iptables_legacy_it_is_only_said_that_it_cannot_be_told():
    assert plan(legacy_tables=("nat",)) == []
    (told,) = plan(legacy_tables=("filter",))
    assert "cannot be told" in told


def test_rules_of_iptables_are_opened_by_iptables():
    chain = otherfirewalls.Chain("ip", "filter", "INPUT", "input", "drop")
    (told,) = plan(chain)
    assert "`iptables -I INPUT -i kv+ -j ACCEPT` lets it pass" in told
    assert "-o kv+" not in told


def test_what_drops_pods_traffic_in_a_network_namespace_is_opened_there():
    place = typed.Place(settings.Settings(netns="n1"))
    nft = otherfirewalls.Chain("inet", "filter", "forward", "forward", "drop")
    iptables = otherfirewalls.Chain("ip", "filter", "INPUT", "input", "drop")
    told = plan(nft, iptables, legacy_tables=("filter",), place=place)
    typed_by_user = [text for one in told for text in re.findall(r"`([^`]+)`", one)]
    assert len(typed_by_user) == 5
    assert all(one.startswith("nsenter --net=/run/netns/n1 ") for one in typed_by_user)


def test_a_module_that_would_be_loaded_is_known(tmp_path):
    assert not trial.has_ifb_module(tmp_path)
    for name, is_there in (("dummy", False), ("ifb", True)):
        (tmp_path / "modules.dep").write_text(f"kernel/drivers/net/{name}.ko.xz:\n")
        assert trial.has_ifb_module(tmp_path) is is_there
