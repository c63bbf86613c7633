from kci.kcilet.plan import events
from kci.kube import models


def pod(**annotations):
    return models.Pod(metadata=models.ObjectMeta(annotations=annotations))


def test_a_network_wish_that_is_not_served_is_told():
    (told,) = events.not_served(kube_proxy=True)
    assert (told.type, told.reason) == ("Warning", "KubeProxyNotAvailable")


def test_a_dns_server_that_is_a_service_is_told_with_its_remedies():
    told = events.dns_not_reachable("10.96.0.10", "kube-system/kube-dns")
    assert (told.type, told.reason) == ("Warning", "DNSNotReachable")
    for word in (
        "10.96.0.10",
        "kube-system/kube-dns",
        "kci-kube-proxy-enabled",
        "KCI_KUBE_PROXY",
        "--cluster-dns",
    ):
        assert word in told.message


def test_a_pod_without_such_wishes_gets_no_warning():
    assert events.not_served(kube_proxy=False) == []
