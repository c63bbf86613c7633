"""Services of pods on real links, with real servers behind them, in namespaces of these tests' own."""

import collections
import socket

import pytest
import routed_pods

from kci.kcilet import ports
from kci.kcilet.drivers.network import service_rules, tracked

pytestmark = [
    pytest.mark.integration,
    pytest.mark.requirement("R55"),
    pytest.mark.guide("env KCI_KUBE_PROXY", "annotation kci-kube-proxy-enabled"),
]
VIP = "10.96.0.10"


def service(port=80, protocol="tcp", address=VIP):
    return ports.ServiceAddress(address, protocol, port)


def backend(*endpoints, affinity_s=0):
    return ports.Backend(tuple(endpoints), affinity_s)


@pytest.fixture
def machine():
    with routed_pods.machine() as made:
        yield made


@pytest.fixture
def pods(machine):
    """A client and two others that serve on port 8080."""
    found = [machine.add_pod() for _ in range(3)]
    for pod in found[1:]:
        pod.serve(8080)
        pod.serve(8080, "udp")
    return found


def endpoint(pod, port=8080):
    return ports.Endpoint(pod.address, port)


def test_connections_are_spread_over_all_endpoints(machine, pods):
    client, *servers = pods
    machine.put({service(): backend(*map(endpoint, servers))}, members=[client])
    answers = collections.Counter(client.ask(service()) for _ in range(60))
    assert answers.keys() == {(one.address, client.address) for one in servers}
    assert min(answers.values()) >= 10


def test_a_pod_that_is_no_member_reaches_no_service(machine, pods):
    client, server, _ = pods
    machine.put({service(): backend(endpoint(server))}, members=[server])
    assert issubclass(client.ask(service()), OSError)
    assert client.ask(endpoint(server)) == (server.address, client.address)


def test_pods_of_different_clusters_do_not_see_each_others_services(machine, pods):
    one, other, server = pods
    machine.put({service(): backend(endpoint(server))}, "a", [one])
    machine.put({service(): backend(endpoint(other)), service(81): backend(endpoint(other))}, "b", [other])
    assert {one.ask(service())[0] for _ in range(5)} == {server.address}
    assert issubclass(one.ask(service(81)), OSError)
    assert {other.ask(service(81))[0] for _ in range(5)} == {other.address}


def test_without_endpoints_connections_are_refused_at_once(machine, pods):
    client, server, _ = pods
    table = {service(): backend(), service(53, "udp"): backend(), service(82): backend(endpoint(server))}
    machine.put(table, members=[client])
    assert client.ask(service()) is ConnectionRefusedError
    assert client.ask(service(53, "udp"), "udp") is ConnectionRefusedError
    # Nor is there a port that no Service has.
    assert client.ask(service(83)) is ConnectionRefusedError
    assert client.ask(service(82))[0] == server.address


def test_endpoints_change_while_pods_run(machine, pods):
    client, one, other = pods
    machine.put({service(): backend(endpoint(one))}, members=[client])
    assert client.ask(service())[0] == one.address
    machine.put({service(): backend(endpoint(other))}, whole=False)
    assert {client.ask(service())[0] for _ in range(5)} == {other.address}
    machine.put({service(): backend(endpoint(one), endpoint(other))}, whole=False)
    assert {client.ask(service())[0] for _ in range(40)} == {one.address, other.address}
    machine.put({service(): backend()}, whole=False)
    assert client.ask(service()) is ConnectionRefusedError
    machine.put({}, gone=[service()], whole=False)
    assert issubclass(client.ask(service()), OSError)
    assert VIP not in machine.rules()


def test_a_flow_of_udp_leaves_an_endpoint_that_is_gone(machine, pods):
    client, one, other = pods
    key = service(53, "udp")
    machine.put({key: backend(endpoint(one))}, members=[client])
    with client.socket("udp") as kept:
        kept.connect((key.address, key.port))
        assert client.ask(key, "udp", kept)[0] == one.address
        machine.put({key: backend(endpoint(other))}, whole=False)
        assert client.ask(key, "udp", kept)[0] == other.address
        # Nor does it go on to one that only serves what it has, when a new one is there.
        both = ports.Backend((endpoint(one),), serving=(endpoint(one), endpoint(other)))
        machine.put({key: both}, whole=False)
        assert client.ask(key, "udp", kept)[0] == other.address
        machine.put({key: backend()}, whole=False)
        assert client.ask(key, "udp", kept) is ConnectionRefusedError


# An attribute that no kernel knows: as one of before 5.8, that sends the whole table.
@pytest.fixture(params=[tracked._FILTER, 63], ids=["a kernel that chooses", "one that does not"])
def chooses(request, monkeypatch):
    monkeypatch.setattr(tracked, "_FILTER", request.param)


@pytest.mark.parametrize("services", [1, 20])
def test_flows_are_forgotten_by_the_thousand_and_none_too_many(machine, pods, chooses, services):
    client, one, other = pods
    keys = [service(100 + number, "udp") for number in range(services)]
    untouched = service(99, "udp")
    # Nobody answers there, so nothing is begun from that side.
    old, new = endpoint(one, 9999), endpoint(other, 9999)
    ours = {key: backend(old) for key in keys}
    machine.put({**ours, untouched: backend(endpoint(one))}, members=[client])

    def send():
        for number in range(1000):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
                # Each is a flow of its own.
                made.bind(("", 20000 + number))
                key = keys[number % services]
                made.sendto(b"?", (key.address, key.port))

    with client.socket("udp") as kept:
        kept.connect((untouched.address, untouched.port))
        assert client.ask(untouched, "udp", kept)[0] == one.address
        client.call(send)
        assert machine.tracked() >= 1001
        # What leads where it may stays, also when there is more to choose from.
        machine.put({key: backend(old, new) for key in keys}, whole=False)
        assert machine.tracked() >= 1001
        machine.put({key: backend(new) for key in keys}, whole=False)
        assert machine.tracked() < 10
        assert client.ask(untouched, "udp", kept)[0] == one.address


def test_flows_of_others_are_left_alone(machine, pods):
    client, one, other = pods
    key = service(53, "udp")
    machine.put({key: backend(endpoint(one))}, "a", [client])
    machine.put({key: backend(endpoint(one))}, "b", [other])
    with client.socket("udp") as kept, client.socket("udp") as direct:
        kept.connect((key.address, key.port))
        direct.connect((one.address, 8080))
        assert client.ask(key, "udp", kept)[0] == client.ask(key, "udp", direct)[0] == one.address
        machine.put({key: backend(endpoint(other))}, "b", whole=False)
        assert client.ask(key, "udp", kept)[0] == one.address
        machine.put({key: backend(endpoint(other))}, "a", whole=False)
        assert client.ask(key, "udp", direct)[0] == one.address


def test_a_client_keeps_its_endpoint_while_affinity_lasts(machine, pods):
    client, one, other = pods
    table = {service(): backend(endpoint(one), endpoint(other), affinity_s=100)}
    machine.put(table, members=[client])
    (first,) = {client.ask(service())[0] for _ in range(20)}
    machine.restart()
    machine.put(table, members=[client])
    assert {client.ask(service())[0] for _ in range(20)} == {first}
    left = one if first == other.address else other
    machine.put({service(): backend(endpoint(left), affinity_s=100)}, whole=False)
    assert client.ask(service())[0] == left.address
    machine.put({service(): backend(endpoint(left))}, whole=False)
    assert client.ask(service())[0] == left.address
    assert "timeout" not in machine.rules()


def test_affinity_ends_with_its_time(machine, pods):
    client, *servers = pods
    machine.put({service(): backend(*map(endpoint, servers), affinity_s=1)}, members=[client])
    first = client.ask(service())[0]
    assert first in machine.rules()
    while f"{client.address} timeout" in machine.rules():
        pass
    assert {client.ask(service())[0] for _ in range(5)} <= {one.address for one in servers}


def test_a_pod_reaches_itself(machine, pods):
    _, server, _ = pods
    table = {service(): backend(endpoint(server)), service(53, "udp"): backend(endpoint(server))}
    machine.put(table, members=[server])
    assert server.ask(service()) == (server.address, routed_pods.GATEWAY)
    assert server.ask(service(53, "udp"), "udp") == (server.address, routed_pods.GATEWAY)


def test_sctp_is_sent_on(machine, pods):
    client, server, _ = pods
    try:
        server.socket("sctp").close()
    except OSError:
        pytest.skip("this kernel has no SCTP")
    target = server.serve(9090, "sctp")
    machine.put({service(90, "sctp"): backend(target)}, members=[client])
    assert client.ask(service(90, "sctp"), "sctp")[0] == server.address


def test_rules_outlive_the_driver_and_are_found_again(machine, pods):
    client, one, other = pods
    machine.put({service(): backend(endpoint(one)), service(53, "udp"): backend()}, members=[client])
    machine.stop()
    assert client.ask(service())[0] == one.address
    machine.start()
    assert client.ask(service())[0] == one.address
    # Of what it does not know it takes a whole table only.
    with pytest.raises(Exception, match="whole table"):
        machine.put({service(): backend(endpoint(other))}, whole=False)
    machine.put({service(): backend(endpoint(other))})
    assert client.ask(service())[0] == other.address
    assert "udp" not in "".join(line for line in machine.rules().splitlines() if VIP in line)
    machine.restart()
    machine.call(machine.driver.dismiss, client.uid)
    assert issubclass(client.ask(service()), OSError)
    # Nothing is left with the last one; the next one begins anew.
    assert machine.rules() == ""
    machine.admit(client)
    machine.put({service(): backend(endpoint(one))})
    assert client.ask(service())[0] == one.address
    machine.call(machine.driver.dismiss, client.uid)
    machine.call(machine.driver.forget, "o")
    assert machine.rules() == ""


def test_a_pod_has_its_services_before_anybody_knows_them_and_loses_them_with_its_address(machine, pods):
    client, server, _ = pods
    machine.admit(client)
    assert issubclass(client.ask(service()), OSError)
    machine.put({service(): backend(endpoint(server))})
    assert client.ask(service())[0] == server.address
    # The next pod with this address asks for none.
    machine.call(machine.driver.admit, "uid-next", client.interface, "")
    assert issubclass(client.ask(service()), OSError)
    assert client.address not in machine.rules()


def test_what_somebody_flushes_is_back_with_the_next_look(machine, pods):
    client, server, _ = pods
    table = {service(): backend(endpoint(server))}
    machine.put(table, members=[client])
    other = {service(81): backend(endpoint(server))}
    machine.put(other, outlook="other", members=[server])
    # The second leaves chains and maps without their contents.
    for flush in (("ruleset",), ("table", "inet", routed_pods.TABLE)):
        machine.nft("flush", *flush)
        assert not machine.call(machine.driver.is_whole)
        assert issubclass(client.ask(service()), OSError)
        machine.put({}, whole=False, members=[client])
        assert client.ask(service())[0] == server.address
        machine.put({}, whole=False, outlook="other", members=[server])
        assert server.ask(service(81))[0] == server.address
        assert machine.call(machine.driver.is_whole)
    machine.nft("flush", "ruleset")
    machine.admit(machine.add_pod())


def test_an_endpoint_that_is_the_machines_is_out_of_reach_unless_it_is_allowed(machine, pods):
    client, *_ = pods
    machine.stop()
    machine.reachable = (ports.Reachable(routed_pods.GATEWAY, 6443),)
    machine.start()
    listeners = [machine.call(socket.create_server, (routed_pods.GATEWAY, port)) for port in (6443, 6444)]
    local = machine.call(socket.create_server, ("127.0.0.1", 8080))
    table = {
        service(443): backend(ports.Endpoint(routed_pods.GATEWAY, 6443)),
        service(444): backend(ports.Endpoint(routed_pods.GATEWAY, 6444)),
        service(445): backend(ports.Endpoint("127.0.0.1", 8080)),
        service(446): backend(ports.Endpoint("169.254.169.254", 80)),
        service(447): backend(ports.Endpoint("224.0.0.1", 80)),
    }
    # The planner passes over such endpoints; here the kernel alone is asked.
    machine.put(table, members=[client])
    with client.socket() as made:
        made.connect((VIP, 443))
    for port in (444, 445, 446, 447):
        assert issubclass(client.ask(service(port)), OSError), port
    for listener in (*listeners, local):
        listener.settimeout(0)
    with listeners[0].accept()[0]:
        pass
    for listener in (listeners[1], local):
        with pytest.raises(BlockingIOError):
            listener.accept()
    for listener in (*listeners, local):
        listener.close()


def test_what_an_earlier_life_left_and_nobody_has_is_swept(machine, pods):
    client, server, _ = pods
    machine.put({service(): backend(endpoint(server), affinity_s=9)}, outlook="left", members=[client])
    machine.put({service(): backend(endpoint(server))}, outlook="other", members=[server])
    machine.put({service(): backend(endpoint(server))}, outlook="mine", members=[client])
    machine.restart()
    left, other = (service_rules.outlook_name(one) for one in ("left", "other"))
    assert left in machine.rules()
    machine.put({service(): backend(endpoint(server))}, outlook="mine", members=[client])
    assert left not in machine.rules()
    # Somebody has this one.
    assert other in machine.rules()
    assert client.ask(service()) == (server.address, client.address)


@pytest.mark.requirement("R07")
def test_changed_flags_hold_after_a_restart_whatever_is_done_first(machine, pods):
    client, server, _ = pods
    allowed = ports.Reachable("10.9.0.1", 8080, "tcp")
    steps = (
        lambda: machine.admit(server),
        lambda: machine.call(machine.driver.dismiss, server.uid),
        lambda: machine.call(machine.driver.forget, "nobody's"),
    )
    for number, first in enumerate(steps):
        machine.reachable = ()
        machine.restart()
        machine.put({service(): backend(endpoint(server))}, members=[client, server])
        assert "10.9.0.1 . tcp . 8080" not in machine.rules()
        machine.reachable = (allowed,)
        machine.restart()
        first()
        machine.put({service(): backend(endpoint(server))}, members=[client, server])
        assert "10.9.0.1 . tcp . 8080" in machine.rules(), number
        assert client.ask(service()) == (server.address, client.address)


def test_a_pod_with_net_admin_cannot_change_its_rules(machine, pods):
    client, server, other = pods
    machine.put({service(): backend(endpoint(server))}, members=[client])
    assert client.nft("flush", "ruleset").returncode == 0
    assert client.ask(service())[0] == server.address
    assert client.nft("list", "ruleset").stdout.strip() == ""
    before = machine.rules()
    client.nft("add", "table", "inet", routed_pods.TABLE)
    client.nft("add", "chain", "inet", routed_pods.TABLE, "prerouting")
    assert machine.rules() == before
    assert issubclass(other.ask(service()), OSError)
