from kci.kcilet.plan import events
from kci.kube import models


def pod(**annotations):
    return models.Pod(metadata=models.ObjectMeta(annotations=annotations))


def test_a_network_wish_that_is_not_served_is_told():
    (told,) = events.not_served(kube_proxy=True)
    assert (told.type, told.reason) == ("Warning", "KubeProxyNotAvailable")


def test_a_pod_without_such_wishes_gets_no_warning():
    assert events.not_served(kube_proxy=False) == []
