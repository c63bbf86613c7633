"""Limits of a pod's traffic, by annotation, as two pods feel them."""

import subprocess

import pytest
from line import eventually, pod

from kci.kcilet.drivers.network import cni

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.guide("annotation ingress-bandwidth", "annotation egress-bandwidth"),
]
BYTES = 5_000_000
SERVER = (
    f"mkdir /tmp/www; head -c {BYTES} /dev/zero > /tmp/www/file; "
    "trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/www & wait"
)
CLIENT = "trap 'exit 0' TERM; sleep 600 & wait"
# At 20 Mbit/s.
LEAST_S = 8 * BYTES / 20e6


def limited(name, command, **annotations):
    notes = {f"kubernetes.io/{way}-bandwidth": limit for way, limit in annotations.items()}
    return pod(name, command, metadata={"name": name, "annotations": notes})


def fetch_s(line, address):
    """The seconds that a fetch took, by the client's own clock."""
    clock = "read up _ < /proc/uptime; echo $up"
    told = line.kubectl("exec", "takes", "--", "sh", "-c", f"{clock}; {fetch(address)}; {clock}")
    began, size, ended = (float(text) for text in told.split())
    assert size > BYTES
    return ended - began


def fetch(address):
    """Prints how many bytes came."""
    return f"printf 'GET /file HTTP/1.0\\r\\n\\r\\n' | nc {address} 8080 | wc -c"


def is_served(line, address):
    told = line.run_kubectl("exec", "takes", "--", "sh", "-c", fetch(address)).stdout
    return told.strip() not in {"", "0"}


def wait_limited(line, name, rate):
    link = cni.to_link_name(line.get("pod", name)["metadata"]["uid"])
    show = line.inside("tc", "qdisc", "show", "dev", link)
    eventually(
        lambda: f"rate {rate}" in subprocess.run(show, capture_output=True, text=True, check=True).stdout
    )


def test_the_slower_end_decides_and_a_changed_annotation_holds_at_once(line):
    line.apply(limited("gives", SERVER, egress="20M"), limited("takes", CLIENT))
    line.wait_ready("pod/gives", "pod/takes")
    address = line.get("pod", "gives")["status"]["podIP"]
    eventually(lambda: is_served(line, address))
    assert fetch_s(line, address) >= 0.95 * LEAST_S
    line.kubectl("annotate", "--overwrite", "pod", "gives", "kubernetes.io/egress-bandwidth=1G")
    line.kubectl("annotate", "pod", "takes", "kubernetes.io/ingress-bandwidth=10M")
    wait_limited(line, "takes", "10Mbit")
    assert fetch_s(line, address) >= 0.95 * 2 * LEAST_S
    line.kubectl("annotate", "--overwrite", "pod", "takes", "kubernetes.io/ingress-bandwidth=1G")
    wait_limited(line, "takes", "1Gbit")
    assert fetch_s(line, address) < LEAST_S
    line.kubectl("delete", "pod", "gives", "takes")
