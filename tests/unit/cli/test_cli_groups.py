"""Container groups on the terminal: what is decided."""

import datetime

import pytest

from kci.cli import access, group_rows
from kci.contract import groups
from kci.kit import errors

NOW = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)


def group(group_id="id-1", pod="web", **more):
    return groups.ContainerGroup(
        container_group_id=group_id,
        labels=(
            groups.LabelValue(key="namespace", value="default"),
            groups.LabelValue(key="pod-name", value=pod),
        ),
        status="Running",
        create_time="2026-01-01 19:00:00",
        cpu=2,
        memory=4,
        network_interface_attributes=(
            groups.NetworkInterface(
                private_ip_address="10.0.0.7",
                subnet_id="s",
                security_groups=(groups.SecurityGroup(security_group_id="g"),),
            ),
        ),
        **more,
    )


@pytest.mark.guide("form console")
def test_a_row_tells_pod_size_status_address_and_age():
    assert group_rows.row(group(), NOW) == ("id-1", "default/web", "2C4G", "Running", "10.0.0.7", "1h")
    assert group_rows.row(group(status_reason="BackOff"), NOW)[3] == "Running (BackOff)"


@pytest.mark.parametrize(
    ("made", "age"),
    [("2026-01-01 20:00:00", "0s"), ("2026-01-01 19:58:59", "1m"), ("2025-12-30 20:00:00", "2d"), ("", "")],
)
def test_ages_are_told_from_beijing_time(made, age):
    assert group_rows.age(made, NOW) == age


def test_times_are_shown_as_kubernetes_writes_them():
    made = dict(group_rows.lines(group(), NOW))["created"]
    assert made == "2026-01-01T11:00:00Z (1h ago)"
    assert group_rows.events(group())[0].time == "2026-01-01T11:00:00Z"
    assert group_rows.shown("soon") == "soon"


def test_a_group_is_found_by_id_pod_or_the_beginning_of_an_id():
    one, two = group("aa-1", "web"), group("ab-2", "db")
    for wanted in ("aa-1", "default/web", "web", "aa"):
        assert group_rows.find([one, two], wanted) is one
    with pytest.raises(errors.UserError, match="cannot tell"):
        group_rows.find([one, two], "a")
    with pytest.raises(errors.UserError, match="cannot find"):
        group_rows.find([one, two], "zz")


def test_of_several_groups_of_one_pod_none_is_taken_silently():
    old, new = group("aa-1", "web"), group("ab-2", "web")
    for wanted in ("default/web", "web"):
        with pytest.raises(errors.UserError, match=r"aa-1 \(default/web, Running\), ab-2 \(default/web"):
            group_rows.find([old, new], wanted)
    assert group_rows.find([old, new], "ab-2") is new


def test_an_id_is_one_though_another_begins_with_it():
    one, two = group("aa", "web"), group("aa-1", "db")
    assert group_rows.find([two, one], "aa") is one


def test_subnets_and_security_groups_are_counted():
    assert group_rows.places([group("1"), group("2")]) == ({"s": 2}, {"g": 2})


def test_the_account_is_the_environments_else_the_stacks(tmp_path):
    variables = {
        name: name.lower() for name in ("KCI_ACCESS_KEY", "KCI_SECRET_KEY", "KCI_REGION", "KCI_ENDPOINT")
    }
    assert access.find(None, variables).access_key == "kci_access_key"
    (tmp_path / "kci.env").write_text(
        "KCI_ACCESS_KEY=mine\nKCI_SECRET_KEY=a=b\nKCI_REGION=r\nKCI_ENDPOINT=http://10.0.0.1:1\n"
    )
    asked = access.find(tmp_path, variables)
    assert (asked.access_key, asked.secret_key.reveal(), asked.region) == ("mine", "a=b", "r")
    del variables["KCI_REGION"]
    with pytest.raises(errors.UserError, match="KCI_REGION missing"):
        access.find(None, variables)
    with pytest.raises(errors.UserError, match="run `kci up`"):
        access.find(tmp_path / "none", {})
