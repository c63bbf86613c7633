from kci.kcilet.plan import events


def test_services_that_a_pod_does_not_reach_are_told_with_the_reason():
    for told in (events.services_not_known("why"), events.services_not_reached("why")):
        assert told.type == "Warning"
        assert told.message.endswith("why")


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
