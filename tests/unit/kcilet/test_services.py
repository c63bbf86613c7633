"""kube-proxy's decisions (pkg/proxy of Kubernetes 1.36), as tables."""

import socket

import hypothesis
import pytest
from hypothesis import strategies

from kci.kcilet import ports
from kci.kcilet.drivers.network import conntrack, tracked
from kci.kcilet.plan import services
from kci.kube import models

pytestmark = pytest.mark.guide("env KCI_KUBE_PROXY", "annotation kci-kube-proxy-enabled")
HERE = services.Outlook("vn1", "zone-a")
ADDRESS = "10.96.0.10"


def service(name="web", *, labels=None, port=None, status=None, **spec):
    found = {"type": "ClusterIP", "cluster_ip": ADDRESS, "ports": (port or models.ServicePort(port=80),)}
    return models.Service(
        metadata=models.ObjectMeta(namespace="default", name=name, labels=labels or {}),
        spec=models.ServiceSpec(**{**found, **spec}),
        status=status or models.ServiceStatus(),
    )


def endpoint(address, state="ready", node="", zones=(), nodes=()):
    """`state` is ready, unready, serving (and terminating), ending, or silent."""
    conditions = {
        "ready": models.EndpointConditions(ready=True, serving=True, terminating=False),
        "unready": models.EndpointConditions(ready=False, serving=False, terminating=False),
        "serving": models.EndpointConditions(ready=False, serving=True, terminating=True),
        "ending": models.EndpointConditions(ready=False, serving=False, terminating=True),
        "silent": models.EndpointConditions(),
    }[state]
    return models.Endpoint(
        addresses=(address,),
        conditions=conditions,
        node_name=node or None,
        hints=models.EndpointHints(
            for_zones=tuple(models.HintedName(name=one) for one in zones) or None,
            for_nodes=tuple(models.HintedName(name=one) for one in nodes) or None,
        ),
    )


def slice_of(*endpoints, port=8080, name="", protocol="TCP", address_type="IPv4"):
    return models.EndpointSlice(
        address_type=address_type,
        endpoints=endpoints,
        ports=(models.EndpointPort(name=name, port=port, protocol=protocol),),
    )


def chosen(found, *slices, outlook=HERE):
    """The addresses behind the only port, or None if it is no address of the table."""
    table = services.merge({("default", "web"): services.rows_of(found, slices, outlook)})
    if not table:
        return None
    ((_, backend),) = table.items()
    return [one.address for one in backend.endpoints]


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([], []),
        ([endpoint("1.0.0.1"), endpoint("1.0.0.2", "unready"), endpoint("1.0.0.3", "serving")], ["1.0.0.1"]),
        ([endpoint("1.0.0.1", "silent")], ["1.0.0.1"]),
        ([endpoint("1.0.0.2", "unready"), endpoint("1.0.0.3", "serving")], ["1.0.0.3"]),
        ([endpoint("1.0.0.2", "unready"), endpoint("1.0.0.3", "ending")], []),
        # A former pod's address that a running one has by now.
        ([endpoint("1.0.0.1"), endpoint("1.0.0.1", "serving")], ["1.0.0.1"]),
        ([endpoint("1.0.0.1", "serving"), endpoint("1.0.0.1")], ["1.0.0.1"]),
    ],
)
def test_endpoints_that_are_ready_serve_and_else_those_that_end_while_serving(endpoints, expected):
    assert chosen(service(), slice_of(*endpoints)) == expected


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        # Zones, if all have hints and one is for here.
        ([endpoint("1.0.0.1", zones=["zone-a"]), endpoint("1.0.0.2", zones=["zone-b"])], ["1.0.0.1"]),
        ([endpoint("1.0.0.1", zones=["zone-b"]), endpoint("1.0.0.2", zones=["zone-c"])],
         ["1.0.0.1", "1.0.0.2"]),
        ([endpoint("1.0.0.1", zones=["zone-a"]), endpoint("1.0.0.2")], ["1.0.0.1", "1.0.0.2"]),
        # One that is not ready has no say.
        ([endpoint("1.0.0.1", zones=["zone-a"]), endpoint("1.0.0.2", "unready")], ["1.0.0.1"]),
        # Nodes before zones.
        ([endpoint("1.0.0.1", zones=["zone-a"], nodes=["other"]),
          endpoint("1.0.0.2", zones=["zone-b"], nodes=["vn1"])], ["1.0.0.2"]),
        ([endpoint("1.0.0.1", zones=["zone-a"], nodes=["other"]),
          endpoint("1.0.0.2", zones=["zone-b"], nodes=["another"])], ["1.0.0.1"]),
        ([endpoint("1.0.0.1", "serving", zones=["zone-b"])], ["1.0.0.1"]),
    ],
)  # fmt: skip
def test_hints_of_zones_and_nodes_count_where_they_can_be_held(endpoints, expected):
    assert chosen(service(), slice_of(*endpoints)) == expected


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ([endpoint("1.0.0.1", node="vn1"), endpoint("1.0.0.2", node="other")], ["1.0.0.1"]),
        ([endpoint("1.0.0.2", node="other"), endpoint("1.0.0.3")], []),
        ([endpoint("1.0.0.1", "serving", node="vn1"), endpoint("1.0.0.2", node="other")], ["1.0.0.1"]),
        # Hints are no matter here.
        ([endpoint("1.0.0.1", node="vn1", zones=["zone-b"])], ["1.0.0.1"]),
    ],
)
def test_the_internal_policy_local_keeps_to_the_pods_own_node(endpoints, expected):
    assert chosen(service(internal_traffic_policy="Local"), slice_of(*endpoints)) == expected


@pytest.mark.parametrize(
    "found",
    [
        service(cluster_ip="None"),
        service(cluster_ip=""),
        service(type="ExternalName"),
        service(labels={services.PROXY_NAME: "mine"}),
        service(cluster_ip="fd00::1", ip_families=("IPv6",), cluster_ips=("fd00::1",)),
        service(port=models.ServicePort(port=80, protocol="ICMP")),
        None,
    ],
)
def test_what_is_no_service_of_kube_proxys_is_none_of_ours(found):
    assert chosen(found, slice_of(endpoint("1.0.0.1"))) is None


def test_a_nodeport_and_a_load_balancer_are_reached_by_their_cluster_ip():
    for kind in ("NodePort", "LoadBalancer"):
        assert chosen(service(type=kind), slice_of(endpoint("1.0.0.1"))) == ["1.0.0.1"]


def test_of_two_families_it_is_ipv4():
    both = service(cluster_ip="fd00::1", ip_families=("IPv6", "IPv4"), cluster_ips=("fd00::1", ADDRESS))
    (key,) = services.rows_of(both, [slice_of(endpoint("fd00::2"), address_type="IPv6")], HERE).cluster
    assert key.address == ADDRESS
    assert chosen(both, slice_of(endpoint("fd00::2"), address_type="IPv6")) == []


@pytest.mark.parametrize(
    "address",
    ["1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4\n", "1.2.3.4; flush ruleset", "::1", ""],
)
def test_what_is_no_address_in_its_usual_form_reaches_no_rule(address):
    assert chosen(service(), slice_of(endpoint(address), endpoint("1.0.0.1"))) == ["1.0.0.1"]
    assert chosen(service(cluster_ip=address), slice_of(endpoint("1.0.0.1"))) is None


def test_ports_are_matched_by_name_and_protocol():
    many = service(
        ports=(
            models.ServicePort(name="web", port=80),
            models.ServicePort(name="dns", port=53, protocol="UDP"),
            models.ServicePort(name="assoc", port=90, protocol="SCTP"),
            models.ServicePort(name="none", port=99),
        )
    )
    slices = [
        slice_of(endpoint("1.0.0.1"), port=8080, name="web"),
        slice_of(endpoint("1.0.0.2"), port=8081, name="web"),
        slice_of(endpoint("1.0.0.1"), port=5353, name="dns", protocol="UDP"),
        slice_of(endpoint("1.0.0.1"), port=5354, name="dns"),
        slice_of(endpoint("1.0.0.1"), port=9090, name="assoc", protocol="SCTP"),
        models.EndpointSlice(endpoints=None, ports=(models.EndpointPort(port=1),)),
    ]
    table = services.rows_of(many, slices, HERE).cluster
    assert {(key.protocol, key.port): [(one.address, one.port) for one in backend.endpoints]
            for key, backend in table.items()} == {
        ("tcp", 80): [("1.0.0.1", 8080), ("1.0.0.2", 8081)],
        ("udp", 53): [("1.0.0.1", 5353)],
        ("sctp", 90): [("1.0.0.1", 9090)],
        ("tcp", 99): [],
    }  # fmt: skip


def test_affinity_has_its_timeout_or_kubernetes_default():
    def affinity_s(**spec):
        (backend,) = services.rows_of(service(**spec), [], HERE).cluster.values()
        return backend.affinity_s

    config = models.SessionAffinityConfig(client_ip=models.ClientIPConfig(timeout_seconds=60))
    assert affinity_s() == 0
    assert affinity_s(session_affinity="ClientIP", session_affinity_config=config) == 60
    assert affinity_s(session_affinity="ClientIP") == 10800


@pytest.mark.requirement("R55")
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("169.254.169.254", "link-local"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "no address of a pod"),
        ("0.0.0.0", "no address of a pod"),
        ("10.0.0.1", "the machine"),
    ],
)
def test_an_endpoint_that_no_pod_can_be_is_passed_over_and_told(address, why):
    bounds = services.Bounds(own=frozenset({"10.0.0.1"}))
    outlook = services.Outlook("vn1", bounds=bounds)
    rows = services.rows_of(service(), [slice_of(endpoint(address), endpoint("1.0.0.1"))], outlook)
    (backend,) = rows.cluster.values()
    assert backend.endpoints == (ports.Endpoint("1.0.0.1", 8080),)
    (told,) = rows.ignored
    assert told.startswith(f"default/web: {address}:8080/tcp is")
    assert why in told


def test_a_port_of_the_machine_that_is_allowed_is_an_endpoint_and_no_other_is():
    bounds = services.Bounds(frozenset({"10.0.0.1"}), frozenset({ports.Reachable("10.0.0.1", 6443)}))
    outlook = services.Outlook("vn1", bounds=bounds)
    assert chosen(service(), slice_of(endpoint("10.0.0.1"), port=6443), outlook=outlook) == ["10.0.0.1"]
    assert chosen(service(), slice_of(endpoint("10.0.0.1"), port=6444), outlook=outlook) == []
    udp = service(port=models.ServicePort(port=80, protocol="UDP"))
    assert chosen(udp, slice_of(endpoint("10.0.0.1"), port=6443, protocol="UDP"), outlook=outlook) == []


@pytest.mark.requirement("R55")
def test_external_addresses_count_only_where_they_are_allowed_and_take_nobodys_cluster_ip():
    ingress = (
        models.LoadBalancerIngress(ip="9.9.9.9"),
        models.LoadBalancerIngress(ip="9.9.9.8", ip_mode="Proxy"),
    )
    balanced = models.ServiceStatus(load_balancer=models.LoadBalancerStatus(ingress=ingress))
    greedy = service("greedy", external_ips=("8.8.8.8", "10.96.0.11"), status=balanced)
    victim = service("victim", cluster_ip="10.96.0.11")
    slices = [slice_of(endpoint("1.0.0.1"))]

    def addresses(outlook):
        rows = {
            ("default", one.metadata.name): services.rows_of(one, slices, outlook) for one in (greedy, victim)
        }
        return services.merge(rows)

    assert {key.address for key in addresses(HERE)} == {ADDRESS, "10.96.0.11"}
    allowing = services.Outlook("vn1", bounds=services.Bounds(external=True))
    assert {key.address for key in addresses(allowing)} == {ADDRESS, "10.96.0.11", "8.8.8.8", "9.9.9.9"}
    bounded = service(load_balancer_source_ranges=("1.0.0.0/8",), status=balanced)
    assert services.rows_of(bounded, slices, allowing).external == {}


def test_flows_without_connections_may_stay_at_what_still_serves():
    udp = service(port=models.ServicePort(port=53, protocol="UDP"))
    parts = [slice_of(endpoint("1.0.0.1"), endpoint("1.0.0.2", "serving"), endpoint("1.0.0.3", "ending"),
                      protocol="UDP")]  # fmt: skip
    (backend,) = services.rows_of(udp, parts, HERE).cluster.values()
    assert [one.address for one in backend.endpoints] == ["1.0.0.1"]
    assert [one.address for one in backend.serving] == ["1.0.0.1", "1.0.0.2"]
    (tcp,) = services.rows_of(service(), [], HERE).cluster.values()
    assert tcp.serving is None


KEYS = strategies.builds(
    ports.ServiceAddress,
    strategies.sampled_from(["10.96.0.1", "10.96.0.2"]),
    strategies.sampled_from(["tcp", "udp", "sctp"]),
    strategies.integers(1, 3),
)
ENDPOINT = strategies.builds(
    ports.Endpoint, strategies.sampled_from(["1.0.0.1", "1.0.0.2"]), strategies.integers(1, 2)
)
ENDPOINTS = strategies.lists(ENDPOINT, unique=True, max_size=3).map(lambda found: tuple(sorted(found)))
BACKENDS = strategies.builds(
    ports.Backend, ENDPOINTS, strategies.sampled_from([0, 60, 90]), strategies.none() | ENDPOINTS
)
TABLES = strategies.dictionaries(KEYS, BACKENDS, max_size=6)


@hypothesis.given(old=TABLES, new=TABLES)
def test_a_difference_leads_from_one_table_to_the_other_and_names_nothing_else(old, new):
    change = services.diff(old, new)
    assert services.apply(change, old) == new
    assert all(old.get(key) != backend for key, backend in change.put.items())
    assert change.gone == old.keys() - new.keys()
    assert services.apply(ports.ServiceChange(new, is_whole=True), old) == new


@hypothesis.given(old=TABLES, new=TABLES)
def test_every_flow_that_leads_where_it_must_not_is_forgotten_and_no_other(old, new):
    numbers = {"udp": 17, "sctp": 132}
    suspects = conntrack.stale(services.diff(old, new), old)
    assert all(key.protocol in numbers for key in suspects)
    seen = {"o": conntrack.Seen(new, frozenset({"10.0.0.9"}))}
    for key, before in old.items():
        for answers in before.endpoints if key.protocol in numbers else ():
            target = tracked.packed_target(key.address, numbers[key.protocol], key.port)
            ends = target, tracked.packed(*answers), b""
            flow = tracked.Flow(socket.inet_aton("10.0.0.9"), *ends)
            others = tracked.Flow(socket.inet_aton("10.0.0.8"), *ends)
            now = new.get(key, ports.Backend())
            is_right = answers in {*now.endpoints, *(now.serving or ())}
            found = conntrack.to_forget([flow, others], {"o": suspects}, seen)
            assert found == ([] if is_right else [flow])


def test_a_pod_is_told_of_its_namespaces_services_and_of_the_api_server():
    def named(namespace, name, address=ADDRESS):
        meta = models.ObjectMeta(namespace=namespace, name=name)
        return models.Service(metadata=meta, spec=models.ServiceSpec(cluster_ip=address))

    known = {
        (one.metadata.namespace, one.metadata.name): one
        for one in (
            named("default", "kubernetes"), named("a", "web"), named("a", "headless", "None"),
            named("b", "web"), named("a", "kubernetes"),
        )
    }  # fmt: skip

    def linked(**spec):
        pod = models.Pod(metadata=models.ObjectMeta(namespace="a"), spec=models.PodSpec(**spec))
        found = services.linked(pod, known)
        return [(one.metadata.namespace, one.metadata.name) for one in found]

    assert linked() == [("a", "web"), ("default", "kubernetes")]
    assert linked(enable_service_links=False) == [("default", "kubernetes")]
