"""A real etcd and kube-apiserver on loopback, from the binary that the stack builds; no controllers but those
that a test starts.

Shared by one test session. Tests use names of their own and may restart the API server, which keeps its port.
"""

import contextlib
import datetime
import http.client
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import time

import needs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kci.kit import secret
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import resources
from kci.stack import certificates, goprograms

SERVICE_RANGE = "198.18.0.0/24"
FIRST_SERVICE = "198.18.0.1"
READY_WITHIN_S = 60


class ApiServer:
    def __init__(self, binary: pathlib.Path, folder: pathlib.Path):
        self._binary, self._folder, self._pki = binary, folder, folder / "pki"
        self._etcd_port, self._peer_port, self.port = _free_ports(3)
        self._processes: dict[str, subprocess.Popen] = {}
        self._now = datetime.datetime.now(datetime.UTC)
        leaves = certificates.plan_leaves(
            gateway="127.0.0.1", first_service_address=FIRST_SERVICE, cluster_domain="cluster.local"
        )
        certificates.ensure(self._pki, leaves, self._now)
        self.admin = self._identity(
            certificates.Leaf("admin-of-tests", "ca", "admin", "system:masters", client=True)
        )

    def node(self, name: str) -> configs.ClusterConfig:
        """The identity of a node, as the Node authorizer knows it."""
        return self._identity(
            certificates.Leaf(name, "ca", f"system:node:{name}", "system:nodes", client=True)
        )

    def user(self, name: str) -> configs.ClusterConfig:
        """Somebody without any rights."""
        return self._identity(certificates.Leaf(name, "ca", name, client=True))

    @property
    def ca_pem(self) -> str:
        return certificates.certificate_path(self._pki, "ca").read_text()

    def start(self) -> None:
        config = self._folder / "etcd.yaml"
        config.write_text(_etcd_config(self._folder / "etcd", self._etcd_port, self._peer_port))
        self._start("etcd", str(config))
        self.start_api_server()
        self.await_ready()

    def stop(self) -> None:
        self.stop_api_server()
        self._stop("etcd")

    def start_api_server(self) -> None:
        """From the main thread only: it ends with the thread that started it."""
        self._start("kube-apiserver", *self._flags())

    def stop_api_server(self) -> None:
        self._stop("kube-apiserver")

    @contextlib.contextmanager
    def signing(self, *, life_s: int):
        """With the controllers that approve and sign certificates, which live so long."""
        port = _free_ports(1)[0]
        kubeconfig = self._folder / "signing.kubeconfig"
        manager = certificates.Leaf("cm", "ca", "system:kube-controller-manager", client=True)
        kubeconfig.write_text(configs.render(self._identity(manager)))
        wanted = "certificatesigningrequest-approving-controller,certificatesigningrequest-signing-controller"
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--controllers={wanted}",
            f"--cluster-signing-cert-file={certificates.certificate_path(self._pki, 'ca')}",
            f"--cluster-signing-key-file={certificates.key_path(self._pki, 'ca')}",
            f"--cluster-signing-duration={life_s}s",
            f"--flex-volume-plugin-dir={self._folder / 'volume-plugins'}",
            f"--cert-dir={self._folder / 'cm-certs'}",
        )
        try:
            yield
        finally:
            self._stop("kube-controller-manager")

    def kubelet_client(self) -> configs.ClusterConfig:
        """The identity by which the API server calls kubelets."""
        return self._identity(
            certificates.Leaf("kc", "ca", "kube-apiserver-kubelet-client", "system:masters", client=True)
        )

    def _identity(self, leaf: certificates.Leaf) -> configs.ClusterConfig:
        authority = certificates.Issuer(
            x509.load_pem_x509_certificate(certificates.certificate_path(self._pki, "ca").read_bytes()),
            serialization.load_pem_private_key(
                certificates.key_path(self._pki, "ca").read_bytes(), password=None
            ),
        )
        issued = certificates.issue(leaf, authority, self._now)
        return configs.ClusterConfig(
            server=f"https://127.0.0.1:{self.port}",
            ca_pem=self.ca_pem,
            client_certificate_pem=issued.certificate.public_bytes(serialization.Encoding.PEM).decode(),
            client_key_pem=secret.Secret(certificates.key_pem(issued.key).decode()),
        )

    def _flags(self) -> list[str]:
        pki = self._pki
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={certificates.certificate_path(pki, 'apiserver')}",
            f"--tls-private-key-file={certificates.key_path(pki, 'apiserver')}",
            f"--client-ca-file={certificates.certificate_path(pki, 'ca')}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={certificates.key_path(pki, certificates.SERVICE_ACCOUNT)}",
            f"--service-account-key-file={pki / (certificates.SERVICE_ACCOUNT + '.pub')}",
        ]

    def _start(self, name: str, *arguments: str) -> None:
        command = [str(self._binary), name, *arguments]
        if shutil.which("setpriv"):
            # Should the test session be killed, they end with it.
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

    def await_ready(self) -> None:
        context = ssl.create_default_context(cadata=self.ca_pem)
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended: {self._tail(name)}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", "/readyz")
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.05)
        pytest.fail(f"the API server is not ready: {self._tail('kube-apiserver')}")

    def _tail(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]


def _etcd_config(data: pathlib.Path, port: int, peer_port: int) -> str:
    peer, client = f"http://127.0.0.1:{peer_port}", f"http://127.0.0.1:{port}"
    return (
        f"name: test\ndata-dir: {data}\nunsafe-no-fsync: true\nlog-level: error\n"
        f"listen-client-urls: {client}\nadvertise-client-urls: {client}\n"
        f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: test={peer}\n"
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        found = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@pytest.fixture(scope="session")
def api_server(tmp_path_factory):
    """A running ApiServer."""
    binary = needs.go_program(goprograms.CONTROL_PLANE)
    server = ApiServer(binary, tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def admin(api_server):
    """A client that may do everything."""
    async with clients.Client(api_server.admin) as client:
        yield client


@pytest.fixture
async def namespace(admin):
    """A namespace of the test's own, with the service account that the controller manager would make."""
    made = await admin.create(resources.NAMESPACES, {"metadata": {"generateName": "test-"}})
    name = made["metadata"]["name"]
    await admin.create(resources.SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, namespace=name)
    return name
