"""Which taints keep a pod away, as the scheduler finds it, and that the remedy is one."""

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kci.kube import models, tolerations

OURS = models.Taint(key="virtual-kubelet.io/provider", value="kingsoftcloud", effect="NoSchedule")


def pod(*found):
    return msgspec.convert({"metadata": {"name": "p"}, "spec": {"tolerations": list(found)}}, models.Pod)


@pytest.mark.guide("form tolerations")
@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        # The guide's two manifests.
        (
            {"key": OURS.key, "operator": "Equal", "value": "kingsoftcloud", "effect": "NoSchedule"},
            True,
        ),
        ({"key": f"rbkci-{OURS.key}", "value": "kingsoftcloud", "effect": "NoSchedule"}, False),
        ({"operator": "Exists"}, True),
        ({"key": OURS.key, "operator": "Exists"}, True),
        ({"key": OURS.key, "value": "kingsoftcloud"}, True),
        ({"key": OURS.key, "value": "azure"}, False),
        ({"key": OURS.key, "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": OURS.key, "operator": "Lt", "value": "5"}, False),
    ],
)
def test_a_taint_is_tolerated_by_key_value_and_effect(toleration, tolerated):
    assert tolerations.untolerated(pod(toleration), [OURS]) == ([] if tolerated else [OURS])


def test_a_taint_that_only_prefers_keeps_nobody_away():
    soft = models.Taint(key="a", effect="PreferNoSchedule")
    assert tolerations.untolerated(pod(), [soft, OURS]) == [OURS]


@pytest.mark.guide("form tolerations")
def test_the_sentence_names_the_taint_and_the_toleration_to_add():
    assert tolerations.message(OURS) == (
        "spec.tolerations: nothing tolerates the node's taint "
        "virtual-kubelet.io/provider=kingsoftcloud:NoSchedule, so the scheduler puts the pod elsewhere; add "
        "{key: virtual-kubelet.io/provider, operator: Equal, value: kingsoftcloud, effect: NoSchedule}"
    )


@given(
    st.from_regex(r"[a-zA-Z0-9]([-a-zA-Z0-9._]{0,20}[a-zA-Z0-9])?", fullmatch=True) | st.just(""),
    st.sampled_from(["NoSchedule", "NoExecute"]),
)
def test_the_remedy_is_one(value, effect):
    taint = models.Taint(key="example.com/x", value=value, effect=effect)
    assert tolerations.untolerated(pod(yaml.safe_load(tolerations.remedy(taint))), [taint]) == []
