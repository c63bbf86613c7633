"""Pods without a runtime: network namespaces with routed /32 veths to a machine's namespace, with servers and
clients in them, and the driver for Services in the machine's. All traffic of a pod is routed there.
"""

import concurrent.futures
import contextlib
import socket
import subprocess
import threading

import netns_loop
from test_pod_links import namespace, run

from kci.kcilet import ports
from kci.kcilet.drivers.network import services
from kci.kube import models
from kci.link import types as link

BRIDGE = "kcitest0"
TABLE = f"{BRIDGE}-services"
GATEWAY = "10.9.0.1"
TIMEOUT_S = 5.0
SCTP = 132
COUNT = "net.netfilter.nf_conntrack_count"


class Namespace:
    """A thread in a network namespace; what it makes stays there and is used from anywhere."""

    def __init__(self, name):
        self.name = name
        self._thread = concurrent.futures.ThreadPoolExecutor(
            1, initializer=netns_loop.enter, initargs=(name,)
        )

    def call(self, function, *arguments):
        return self._thread.submit(function, *arguments).result(30)

    def nft(self, *words):
        return run("nsenter", f"--net=/run/netns/{self.name}", "nft", *words, check=False)

    def close(self):
        self._thread.shutdown()


class Pod(Namespace):
    def __init__(self, name, uid, address):
        super().__init__(name)
        self.uid = models.PodUid(uid)
        self.address = address
        self.interface = link.Interface(
            address=address, prefix_length=32, gateway=GATEWAY, mac_address="02:00:00:00:00:01"
        )
        self._servers = []

    def socket(self, protocol="tcp"):
        kinds = {
            "tcp": (socket.SOCK_STREAM, 0),
            "udp": (socket.SOCK_DGRAM, 0),
            "sctp": (socket.SOCK_STREAM, SCTP),
        }
        made = self.call(socket.socket, socket.AF_INET, *kinds[protocol])
        made.settimeout(TIMEOUT_S)
        return made

    def serve(self, port, protocol="tcp", answer=None):
        """Answers everybody with the pod's address and who it takes the client for."""
        listener = self.socket(protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((answer or "0.0.0.0", port))
        listener.settimeout(None)
        if protocol != "udp":
            listener.listen(64)
        thread = threading.Thread(target=self._answer, args=(listener, protocol), daemon=True)
        thread.start()
        self._servers.append((listener, thread))
        return ports.Endpoint(self.address, port)

    def _answer(self, listener, protocol):
        with contextlib.suppress(OSError):
            while True:
                if protocol == "udp":
                    _, peer = listener.recvfrom(100)
                    if peer is None:
                        return
                    listener.sendto(f"{self.address} {peer[0]}".encode(), peer)
                else:
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(f"{self.address} {peer[0]}".encode())

    def ask(self, target, protocol="tcp", kept=None):
        """Who answers there, and whom it takes us for; the error's class if nobody does."""
        with contextlib.ExitStack() as stack:
            made = kept or stack.enter_context(contextlib.closing(self.socket(protocol)))
            try:
                if kept is None:
                    made.connect((target.address, target.port))
                if protocol == "udp":
                    made.send(b"?")
                return tuple(made.recv(100).decode().split())
            except OSError as error:
                return type(error)

    def close(self):
        for listener, thread in self._servers:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT_S)
            listener.close()
        super().close()


class Machine(Namespace):
    """The driver in its thread, and pods."""

    def __init__(self, name, stack):
        super().__init__(name)
        self._stack = stack
        self.pods = []
        self.driver = None
        self.reachable = ()

    def add_pod(self):
        number = len(self.pods) + 2
        pod_name = self._stack.enter_context(namespace())
        address, outer = f"10.9.1.{number}", f"kv{number}"
        at, inside = ("ip", "-n", self.name), ("ip", "-n", pod_name)
        run(*at, "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", pod_name)
        run(*at, "link", "set", outer, "up")
        run(*at, "route", "add", f"{address}/32", "dev", outer)
        for link_name in ("lo", "eth0"):
            run(*inside, "link", "set", link_name, "up")
        run(*inside, "address", "add", f"{address}/32", "dev", "eth0")
        run(*inside, "route", "add", "default", "via", GATEWAY, "dev", "eth0", "onlink")
        pod = Pod(pod_name, f"uid-{number}", address)
        self._stack.callback(pod.close)
        self.pods.append(pod)
        return pod

    def start(self):
        self.driver = self.call(services.Services, BRIDGE, self.reachable)

    def stop(self):
        if self.driver is not None:
            self.call(self.driver.close)
            self.driver = None

    def restart(self):
        self.stop()
        self.start()

    def admit(self, pod, outlook="o"):
        self.call(self.driver.admit, pod.uid, pod.interface, outlook)

    def put(self, table, outlook="o", members=None, *, gone=(), whole=True):
        change = ports.ServiceChange(table, frozenset(gone), is_whole=whole)
        self.call(self.driver.change, outlook, change, {pod.uid: pod.interface for pod in members or ()})
        assert self.driver.wait_cleared(TIMEOUT_S)

    def tracked(self):
        """How many flows the machine remembers."""
        counted = run("nsenter", f"--net=/run/netns/{self.name}", "sysctl", "-n", COUNT).stdout
        return int(counted)

    def rules(self):
        return self.nft("list", "table", "inet", TABLE).stdout


@contextlib.contextmanager
def machine():
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(namespace())
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "add", BRIDGE, "type", "bridge")
        run("ip", "-n", name, "address", "add", f"{GATEWAY}/32", "dev", BRIDGE)
        run("ip", "-n", name, "link", "set", BRIDGE, "up")
        # As the stack has it, for what nobody holds.
        run("ip", "-n", name, "route", "add", "unreachable", "10.96.0.0/16")
        run("ip", "-n", name, "route", "add", "unreachable", "10.9.0.0/16")
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{name}", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"], check=True
        )
        made = Machine(name, stack)
        stack.callback(made.close)
        stack.callback(made.stop)
        made.start()
        yield made
