"""Flat parameters and nested values, both ways, and what the wire form must not be."""

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kci.contract import errors, groups, wire

names = st.from_regex(r"[A-Z][A-Za-z]{0,6}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
nested = st.dictionaries(
    names,
    st.recursive(
        texts,
        lambda below: (
            st.lists(below, min_size=1, max_size=3) | st.dictionaries(names, below, min_size=1, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=5,
)


def as_tree(value):
    if isinstance(value, list):
        return {str(index): as_tree(below) for index, below in enumerate(value)}
    return {name: as_tree(below) for name, below in value.items()} if isinstance(value, dict) else value


@given(nested)
def test_what_is_flattened_comes_back(value):
    form = wire.encode_pairs(wire.flatten(value))
    assert wire.nest(wire.parse_pairs(form)) == as_tree(value)
    assert wire.nest(wire.parse_json(json.dumps(value).encode())) == as_tree(value)


def read(text, kind=groups.CreateContainerGroup):
    return wire.read(wire.nest(wire.parse_pairs(text)), kind)


@pytest.mark.parametrize("indices", [("0", "1"), ("1", "2"), ("3", "17"), ("9", "10")])
def test_an_index_is_only_a_sort_key(indices):
    first, second = indices
    request = read(
        f"Label.{second}.Key=namespace&Label.{second}.Value=b&Label.{first}.Key=cluster-id&Label.{first}.Value=a"
    )
    assert [(label.key, label.value) for label in request.label] == [("cluster-id", "a"), ("namespace", "b")]


def test_values_are_read_as_the_sdks_write_them():
    request = read(
        "Cpu=2.0&Memory=4&ProjectId=7.0&RetainIp=True&KlogEnabled=0&KubeProxy.Enabled=true&Unknown.3.X=1"
    )
    assert (request.cpu, request.memory, request.project_id) == (2.0, 4.0, 7)
    assert (request.retain_ip, request.klog_enabled, request.kube_proxy.enabled) == (True, False, True)


def test_empty_means_absent_but_for_the_entries_of_a_list():
    assert read("Cpu=&RetainIp=&ContainerGroupName=") == groups.CreateContainerGroup()
    assert read("Command.0=echo&Command.1=", groups.ExecContainerCommand).command == ("echo", "")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("Label.1.Key=colour", "Label.1.Key"),
        ("Label.5.Key=cluster-id&Label.5.Value=-a", "Label.5.Value"),
        ("ContainerSpec.1.LimitCpu=1&ContainerSpec.3.LimitCpu=x", "ContainerSpec.3.LimitCpu"),
        ("Cpu=257", "Cpu"),
        ("Cpu=nan", "Cpu"),
        ("Memory=1e999", "Memory"),
        ("ProjectId=" + "9" * 30, "ProjectId"),
        ("RetainIp=maybe", "RetainIp"),
        ("SecurityGroupId=a", "SecurityGroupId"),
        (
            "SecurityGroupId.0=a&SecurityGroupId.1=b&SecurityGroupId.2=c&SecurityGroupId.3=d",
            "SecurityGroupId",
        ),
    ],
)
def test_a_wrong_value_is_refused_under_the_callers_own_name(text, path):
    with pytest.raises(errors.ApiError) as caught:
        read(text)
    assert (caught.value.entry.code, caught.value.parameter) == ("InvalidParameterValue", path)


@pytest.mark.parametrize(
    "text",
    [
        "A=1&A.B=2",
        "A.B=2&A=1",
        "A.B=1&A.B.C=2",
        "A..B=1",
        ".A=1",
        "=1",
        "A%00=1",
        "A=%00",
        "A=%ff",
        "A=%4",
        "A=%zz",
        "A=\udcff",
        "A." + ".".join("B" * 40) + "=1",
        "A" * 300 + "=1",
        "&".join(f"A{number}=1" for number in range(1001)),
    ],
)
def test_a_malformed_form_is_refused(text):
    with pytest.raises(errors.ApiError) as caught:
        wire.nest(wire.parse_pairs(text))
    assert caught.value.entry.code == "MalformedRequest"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b"{",
        b'{"A":1,"A":2}',
        b'{"A":NaN}',
        b'{"A":"\xff"}',
        b'{"A":"\\ud800"}',
        b'{"A.B":1,"A":{"B":2}}',
        b'{"A":' + b"9" * 5000 + b"}",
        b'{"A":' * 3000 + b"1" + b"}" * 3000,
        b'{"A":' * 700 + b"1" + b"}" * 700,
    ],
)
def test_a_malformed_json_body_is_refused(body):
    with pytest.raises(errors.ApiError) as caught:
        wire.nest(wire.parse_json(body))
    assert caught.value.entry.code == "MalformedRequest"


def test_one_name_has_one_value():
    assert wire.merge([("Action", "A")], [("Action", "A"), ("B", "1")]) == [("Action", "A"), ("B", "1")]
    for sources in (([("Action", "A")], [("Action", "B")]), ([("B", "1"), ("B", "1")],)):
        with pytest.raises(errors.ApiError):
            wire.merge(*sources)


def test_answers_are_well_formed_xml_whatever_a_log_holds():
    rendered = wire.render_xml(
        "LogResponse", {"Content": "a<b>\x1b[0m\x00&", "Items": [{"A": 1}, {"A": True}]}
    )
    root = ET.fromstring(rendered)
    assert root.findtext("Content") == "a<b>\N{REPLACEMENT CHARACTER}[0m\N{REPLACEMENT CHARACTER}&"
    assert [item.text for item in root.findall("Items/item/A")] == ["1", "true"]
