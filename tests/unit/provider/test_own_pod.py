"""A virtual node's own program never runs on the node that it serves."""

import pytest

from kci.kube import models
from kci.provider.plan import group, own_pod

DEFAULTS = group.Defaults(cluster_id="c1", node_name="vn1", subnet_id="s", security_group_ids=("g",))


def pod(*args, command=(), env=("VKUBELET_POD_IP",), **more):
    variables = tuple(models.EnvVar(name=name) for name in env)
    variables += tuple(models.EnvVar(name=name, value=value) for name, value in more.items())
    container = models.Container(name="vk", command=tuple(command), args=args, env=variables)
    return models.Pod(
        metadata=models.ObjectMeta(name="vk", namespace="kube-system", uid="u"),
        spec=models.PodSpec(containers=(models.Container(name="other"), container)),
    )


@pytest.mark.parametrize(
    ("found", "is_refused"),
    [
        (pod("--nodename=vn1"), True),
        (pod("--nodename", "vn1"), True),
        (pod("--nodename=vn2", "--nodename=vn1"), True),
        (pod(command=("virtual-kubelet", "--nodename=vn1")), True),
        (pod(DEFAULT_NODE_NAME="vn1"), True),
        (pod("--nodename=vn2"), False),
        (pod("--nodename=vn1", "--nodename=vn2"), False),
        (pod("--nodename=vn2", DEFAULT_NODE_NAME="vn1"), False),
        (pod(), False),
        (pod("--nodename"), False),
        # Some other program with a flag of that name.
        (pod("--nodename=vn1", env=("POD_IP",)), False),
    ],
)
def test_a_pod_that_is_this_very_node_is_refused_and_no_other(found, is_refused):
    refusal = own_pod.refusal(found, "vn1")
    assert (refusal is not None) == is_refused
    refusals = group.decide(found, DEFAULTS).refusals
    assert [one.reason for one in refusals] == ([own_pod.REASON] if is_refused else [])


def test_a_program_that_is_told_no_name_is_the_default_node():
    assert own_pod.refusal(pod(), "virtual-kubelet") is not None
