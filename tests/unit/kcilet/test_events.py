from kci.kcilet.plan import events
from kci.kube import models


def pod(**annotations):
    return models.Pod(metadata=models.ObjectMeta(annotations=annotations))


def test_a_network_wish_that_is_not_served_is_told():
    asked = pod(**{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1G"})
    told = events.not_served(asked, kube_proxy=True)
    assert [event.type for event in told] == ["Warning"] * 3
    assert "ingress-bandwidth" in told[0].message
    assert told[2].reason == "KubeProxyNotAvailable"


def test_a_pod_without_such_wishes_gets_no_warning():
    assert events.not_served(pod(color="blue"), kube_proxy=False) == []
