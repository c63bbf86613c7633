"""Services as pods reach them: by ClusterIP where kube-proxy is on for them, not at all where it is off."""

import json
import subprocess

import pytest
from line import eventually, pod

pytestmark = [pytest.mark.e2e, pytest.mark.requirement("R55")]
ENABLED = "k8s.ksyun.com/kci-kube-proxy-enabled"
# Tells its name to everybody, and stops when it is told to.
WEB = "mkdir -p /www && hostname > /www/name && trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"
IDLE = "trap 'exit 0' TERM; sleep 3600 & wait"
READY = {"httpGet": {"path": "/name", "port": 8080}, "periodSeconds": 1}


def service(name, **spec):
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def web(name, app):
    made = pod(name, WEB, container={"readinessProbe": READY})
    made["metadata"]["labels"] = {"app": app}
    return made


def client(name, *, on):
    return pod(name, IDLE, metadata={"annotations": {ENABLED: on}})


def address(line, name):
    return line.get("service", name)["spec"]["clusterIP"]


def speak(line, name, host, port, within_s=2):
    """What is answered there to a request by HTTP, or why none is."""
    command = f"printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w {within_s} {host} {port} 2>&1 || true"
    return line.kubectl("exec", name, "--", "sh", "-c", command).strip()


def ask(line, name, host, port=80):
    """The name that is told there; empty if none is."""
    head, _, body = speak(line, name, host, port).replace("\r", "").partition("\n\n")
    return body if "200 OK" in head else ""


@pytest.mark.guide("env KCI_KUBE_PROXY", "annotation kci-kube-proxy-enabled")
def test_a_pod_reaches_a_service_if_kube_proxy_is_on_for_it(line):
    line.apply(service("web"), web("web-1", "web"), client("with-proxy", on="true"))
    line.apply(client("without-proxy", on="false"))
    line.wait_ready("pod/web-1", "pod/with-proxy", "pod/without-proxy")
    target = address(line, "web")
    eventually(lambda: ask(line, "with-proxy", target) == "web-1", what="the pod is behind the service")
    assert ask(line, "without-proxy", target) == ""
    # What is off is the Service, not the pod behind it.
    direct = line.get("pod", "web-1")["status"]["podIP"]
    assert ask(line, "without-proxy", direct, 8080) == "web-1"
    # More of them share the load, and one that is gone gets nothing any more.
    line.apply(web("web-2", "web"))
    line.wait_ready("pod/web-2")
    eventually(
        lambda: {ask(line, "with-proxy", target) for _ in range(8)} == {"web-1", "web-2"}, what="both answer"
    )
    line.kubectl("delete", "pod", "web-1")
    eventually(lambda: {ask(line, "with-proxy", target) for _ in range(8)} == {"web-2"}, what="one answers")
    # And without any, a connection is refused at once.
    line.kubectl("delete", "pod", "web-2")
    eventually(lambda: "refused" in speak(line, "with-proxy", target, 80, within_s=20), what="it is refused")
    line.kubectl("delete", "pod/with-proxy", "pod/without-proxy", "service/web")


@pytest.mark.guide("annotation kci-kube-proxy-enabled")
def test_a_pod_reaches_itself_and_the_api_server_by_their_services(line):
    made = web("self", "self")
    made["metadata"]["annotations"] = {ENABLED: "true"}
    line.apply(service("self"), made)
    line.wait_ready("pod/self")
    eventually(lambda: ask(line, "self", address(line, "self")) == "self", what="the pod reaches itself")
    told = line.kubectl("exec", "self", "--", "env")
    api = address(line, "kubernetes")
    assert f"KUBERNETES_SERVICE_HOST={api}\n" in told
    assert "KUBERNETES_SERVICE_PORT=443\n" in told
    assert f"SELF_SERVICE_HOST={address(line, 'self')}\n" in told
    # An HTTPS server says so to who speaks plain HTTP.
    assert "HTTPS server" in speak(line, "self", "$KUBERNETES_SERVICE_HOST", "$KUBERNETES_SERVICE_PORT")
    line.kubectl("delete", "pod/self", "service/self")


@pytest.mark.guide("limit NodePort")
def test_a_nodeport_service_is_reached_by_its_cluster_ip_and_by_no_port_of_the_node(line):
    line.apply(service("np", type="NodePort"), web("np-1", "np"), client("np-client", on="true"))
    line.wait_ready("pod/np-1", "pod/np-client")
    found = line.get("service", "np")["spec"]
    eventually(lambda: ask(line, "np-client", found["clusterIP"]) == "np-1", what="by its ClusterIP")
    node = line.get("node", "virtual-kubelet")["status"]["addresses"]
    host = next(one["address"] for one in node if one["type"] == "InternalIP")
    assert ask(line, "np-client", host, found["ports"][0]["nodePort"]) == ""
    line.kubectl("delete", "pod/np-1", "pod/np-client", "service/np")


def test_services_go_on_while_the_kcilet_is_away_and_change_with_it_once_it_is_back(line):
    line.apply(service("stay"), web("stay-1", "stay"), client("stay-client", on="true"))
    line.wait_ready("pod/stay-1", "pod/stay-client")
    target = address(line, "stay")
    eventually(lambda: ask(line, "stay-client", target) == "stay-1", what="the pod is behind the service")
    bridge = line.where.bridge
    rules = ["nft", "-j", "list", "map", "inet", f"{bridge}-services", "members"]
    own = line.get("pod", "stay-client")["status"]["podIP"]
    assert own in members(line, rules)
    killed = line.kill("kcilet")
    assert own in members(line, rules)
    line.wait_back("kcilet", killed)
    eventually(lambda: ask(line, "stay-client", target) == "stay-1", what="it answers as before")
    line.apply(web("stay-2", "stay"))
    line.wait_ready("pod/stay-2")
    eventually(
        lambda: {ask(line, "stay-client", target) for _ in range(8)} == {"stay-1", "stay-2"},
        what="both answer",
    )
    line.kubectl("delete", "pod/stay-1", "pod/stay-2", "pod/stay-client", "service/stay")
    eventually(lambda: own not in members(line, rules), what="the pod is no member any more")


def members(line, rules):
    """The addresses of pods that reach Services, as the kernel has them."""
    done = subprocess.run(line.inside(*rules), capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        # Without any member there is no table.
        return set()
    (found,) = [one["map"] for one in json.loads(done.stdout)["nftables"] if "map" in one]
    return {element["elem"]["val"] for element, _ in found.get("elem", [])}
