from kci.stack import otherfirewalls, trial


def plan(*chains, legacy_tables=()):
    return otherfirewalls.plan_warnings(
        chains, firewalld=(), legacy_tables=legacy_tables, bridge="kci-abcdef"
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


def test_a_module_that_would_be_loaded_is_known(tmp_path):
    assert not trial.has_ifb_module(tmp_path)
    for name, is_there in (("dummy", False), ("ifb", True)):
        (tmp_path / "modules.dep").write_text(f"kernel/drivers/net/{name}.ko.xz:\n")
        assert trial.has_ifb_module(tmp_path) is is_there
