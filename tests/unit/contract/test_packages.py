"""The package table, and what is granted for what is asked (kci-reference 4)."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kci.contract import packages
from kci.kit import errors


def size(text):
    """4C32: 4 cores and 32 GiB."""
    cores, gib = text.split("C")
    return packages.Size(float(cores), float(gib))


@pytest.mark.parametrize(
    ("cores", "gib", "expected", "rule"),
    [
        (0, 0, "2C4", "the default"),
        (0, 7.8, "2C8", "no cores"),
        (3, 0, "4C4", "no memory"),
        (0.1, 0.1, "1C1", "1 cores come with 1 GiB at least"),
        (1.5, 3, "2C4", "the smallest with 1.5 cores"),
        (1, 5, "2C8", "1 cores come with 4 GiB at most"),
        (2, 9, "2C16", "the smallest"),
        (2.5, 3, "4C4", "4 cores come with 4 GiB at least"),
        (6, 0.5, "8C8", "8 cores come with 8 GiB at least"),
        (3, 40, "8C64", "4 cores come with 32 GiB at most"),
        (4, 8, "4C8", "as asked for"),
        (64, 512, "64C512", "as asked for"),
    ],
)
def test_each_request_gets_the_size_of_the_rules(cores, gib, expected, rule):
    granted = packages.STANDARD.grant(cores, gib)
    assert granted.size == size(expected)
    assert rule in granted.rule


@pytest.mark.parametrize(
    ("cores", "gib", "words"),
    [
        (70, 10, "no size has 70 cores or more: the largest is 64 cores and 512 GiB"),
        (4, 600, "no size has 600 GiB or more: the largest is 64 cores and 512 GiB"),
        (0, 600, "600 GiB"),
        (70, 0, "70 cores"),
    ],
)
def test_what_is_above_every_size_is_an_error_that_names_the_largest(cores, gib, words):
    with pytest.raises(packages.TooLargeError, match=re.escape(words)):
        packages.STANDARD.grant(cores, gib)


UNEVEN = packages.to_table(
    [
        packages.Package(8, (16,)),
        packages.Package(1, (4, 2)),
        packages.Package(2, (3, 32)),
        packages.Package(1, (2, 8)),
    ]
)


@pytest.mark.parametrize(
    ("cores", "gib", "expected"),
    # Between 8 and 16 GiB no package has 2 cores: the search goes on to the next memory.
    [(2, 9, "2C32"), (1, 9, "8C16"), (3, 1, "8C16"), (1, 3, "1C4"), (0, 3, "2C3"), (0, 0, "2C32")],
)
def test_a_table_without_an_even_order_is_searched_to_its_end(cores, gib, expected):
    assert UNEVEN.grant(cores, gib).size == size(expected)


def test_a_table_may_have_no_size_for_both():
    with pytest.raises(packages.TooLargeError, match="together"):
        UNEVEN.grant(8, 32)


amounts = st.integers(0, 600_000).map(lambda number: number / 1000)
tables = st.lists(
    st.builds(
        packages.Package,
        st.sampled_from((0.25, 0.5, 1, 2, 4, 8, 64)),
        st.lists(st.sampled_from((0.5, 1, 2, 4, 8, 16, 600)), min_size=1).map(tuple),
    ),
    min_size=1,
).map(packages.to_table)


@given(tables, amounts, amounts)
def test_a_grant_is_enough_minimal_and_its_own_grant(table, cores, gib):
    try:
        granted = table.grant(cores, gib).size
    except packages.TooLargeError:
        assert not [one for one in table.sizes if one.cores >= cores and one.gib >= gib]
        return
    assert granted.cores >= cores
    assert granted.gib >= gib
    assert table.has(granted)
    assert table.grant(granted.cores, granted.gib).size == granted
    if cores or gib:
        smaller = [
            one
            for one in table.sizes
            if one != granted and cores <= one.cores <= granted.cores and gib <= one.gib <= granted.gib
        ]
        assert not smaller


def test_a_file_of_the_form_of_the_clouds_answer_replaces_the_table():
    text = json.dumps({"RequestId": "x", "Packages": [{"Cpu": 4.0, "Mem": [8, 4]}, {"Cpu": 2, "Mem": [4]}]})
    table = packages.read_table(text.encode(), "sizes.json")
    assert list(table.sizes) == [size("2C4"), size("4C4"), size("4C8")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "truncated"),
        ('{"Packages": []}', "no package"),
        ('{"Packages": [{"Cpu": 2, "Mem": []}]}', "Cpu 2 needs"),
        ('{"Packages": [{"Cpu": 0, "Mem": [1]}]}', "Cpu 0 needs"),
        ('{"Packages": [{"Cpu": 2, "Mem": [4, -1]}]}', "Cpu 2 needs"),
        ('{"Packages": [{"Cpu": "two", "Mem": [4]}]}', "Cpu"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_its_name_and_its_form(text, words):
    with pytest.raises(errors.UserError, match=r"sizes\.json") as told:
        packages.read_table(text.encode(), "sizes.json")
    assert words in str(told.value)
    assert "DescribeKciPackages" in str(told.value)
