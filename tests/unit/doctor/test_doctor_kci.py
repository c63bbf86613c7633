"""What the doctor says of the KCI service, and of any host it tries to reach."""

import datetime

import pytest

from kci.client import errors
from kci.doctor.findings import connection, finding, kci
from kci.stack import typed

HERE = typed.USUAL
WELL, WARNING, WRONG = finding.Level.WELL, finding.Level.WARNING, finding.Level.WRONG
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
MINUTE, DAY = datetime.timedelta(minutes=1), datetime.timedelta(days=1)


def judge_reach(remedies=None, **told):
    seen = connection.Connection(place="kci.example:443", **told)
    return connection.judge_reach(seen, "the endpoint", NOW, remedies=remedies or {})


@pytest.mark.parametrize("obstacle", connection.Obstacle)
def test_each_obstacle_on_the_way_to_a_host_has_its_remedy(obstacle):
    found = judge_reach(obstacle=obstacle, error="because")
    assert found.level is WRONG
    assert f"kci.example:443 is not reached: {obstacle.value} (because)" in found.text
    assert found.remedy
    assert "{" not in found.remedy
    assert judge_reach({obstacle: "special"}, obstacle=obstacle).remedy == "special"


def test_a_host_that_answers_is_well_until_its_certificate_ends_soon():
    assert judge_reach().level is WELL
    assert "good until 2026-07-01" in judge_reach(certificate_end=NOW + 30 * DAY).text
    assert judge_reach(certificate_end=NOW + 13 * DAY).level is WARNING


@pytest.mark.parametrize(
    ("skew_s", "level", "has"),
    [
        (0.4, WELL, "agree"),
        (-29.0, WELL, "agree"),
        (31.0, WARNING, "31 s behind"),
        (-60.0, WARNING, "60 s ahead of"),
        (301.0, WRONG, "301 s behind"),
        (-301.0, WRONG, "are refused"),
    ],
)
def test_clocks_that_differ_are_told_before_calls_are_refused_for_it(skew_s, level, has):
    found = connection.judge_skew(connection.Connection(place="x:1", skew_s=skew_s), "KCI")
    assert found.level is level
    assert has in found.text


def test_a_host_that_tells_no_time_is_no_fault():
    with pytest.raises(finding.NotAtHandError):
        connection.judge_skew(connection.Connection(place="x:1"), "KCI")


@pytest.mark.parametrize(
    ("problem", "level", "has"),
    [
        (None, WELL, "accepts the keys in r-1"),
        (errors.InvalidError("x", code="InvalidParameterValue"), WELL, "accepts"),
        (errors.RefusedError("no", code="SignatureDoesNotMatch"), WRONG, "KCI_SECRET_KEY"),
        (errors.RefusedError("no", code="RequestExpired"), WRONG, "timedatectl"),
        (errors.RefusedError("no", code="SecurityTokenExpired"), WRONG, "TEMP_AKSK_CM"),
        (errors.MissingCredentialsError("cannot sign: none; put them there"), WRONG, "put them there"),
        (errors.UnreachableError("no answer"), WRONG, "cannot be told: no answer"),
        (errors.TryLaterError("busy"), WRONG, "ask again"),
    ],
)
def test_keys_are_told_by_what_the_service_says_to_them(problem, level, has):
    found = kci.judge_keys(problem, region="r-1")
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


def keys(place="ConfigMap a", end=NOW + 60 * MINUTE, **more):
    return kci.TemporaryKeys(place, end=end, **more)


def test_temporary_keys_are_told_by_their_end():
    assert [one.level for one in kci.judge_temporary([keys()], NOW, HERE)] == [WELL]
    assert "without an end" in kci.judge_temporary([keys(end=None)], NOW, HERE)[0].text
    assert [one.level for one in kci.judge_temporary([keys(end=NOW + 4 * MINUTE)], NOW, HERE)] == [WARNING]
    (late,) = kci.judge_temporary([keys(end=NOW)], NOW, HERE)
    assert late.level is WRONG
    assert "kci credentials issue" in late.remedy
    (absent,) = kci.judge_temporary([keys(end=None, problem="there is none", remedy="put it")], NOW, HERE)
    assert (absent.level, absent.text, absent.remedy) == (WRONG, "ConfigMap a: there is none", "put it")


def test_one_place_with_good_keys_is_enough():
    found = kci.judge_temporary([keys(end=NOW), keys("Secret b")], NOW, HERE)
    assert [one.level for one in found] == [WARNING, WELL]


def networks(**more):
    fields = {"has_subnet": True, "subnet_vpc": "v", "free_addresses": 200, "group_vpcs": (("g", "v"),)}
    return kci.Networks("s", ("g",), **fields | more)


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        (networks(), WELL, "200 addresses free"),
        (networks(free_addresses=None), WELL, "the subnet s is there"),
        (networks(has_subnet=False), WRONG, "has no subnet s"),
        (networks(free_addresses=7), WARNING, "7 free addresses"),
        (networks(free_addresses=0), WRONG, "kci subnet create"),
        (kci.Networks("", ()), WARNING, "KCI_SUBNET_ID is not set"),
    ],
)
def test_the_subnet_is_told(seen, level, has):
    found = kci.judge_subnet(seen, HERE)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        (networks(), WELL, "g"),
        (networks(group_vpcs=()), WRONG, "has no security group g"),
        (networks(group_vpcs=(("g", "w"),)), WRONG, "of the VPC w, the subnet s of v"),
        (kci.Networks("s", ()), WARNING, "KCI_SECURITY_GROUP_IDS is not set"),
    ],
)
def test_security_groups_are_told(seen, level, has):
    (found,) = kci.judge_security_groups(seen, HERE)
    assert found.level is level
    assert has in f"{found.text} | {found.remedy}"
