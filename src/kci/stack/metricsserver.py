"""metrics-server in a stack: its command line. Pure.

It listens on the gateway address, since an EndpointSlice may not lead to loopback; pods do not reach it
there. What it may do, and how the API server finds it, is metricsapi.py's.
"""

from __future__ import annotations

import dataclasses
import pathlib

from kci.stack import addresses, certificates, commands, layout, record

NAME = "metrics-server"
# Of its own manifests. It takes no less than 10.
RESOLUTION_S = 15


@dataclasses.dataclass(frozen=True)
class Plan:
    where: layout.Layout
    binary: pathlib.Path
    version: str
    ranges: addresses.Ranges
    choices: record.Choices


def command(plan: Plan) -> commands.Command:
    address, port = str(plan.ranges.gateway), plan.choices.metrics_server_port
    pki = plan.where.pki
    authority = certificates.certificate_path(pki, "ca")
    kubeconfig = plan.where.kubeconfig_of(NAME)
    flags = {
        "kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        # Whom the API server speaks for is in the headers of its requests; nobody else is known here.
        "authentication-kubeconfig": kubeconfig,
        "authentication-skip-lookup": "true",
        "requestheader-client-ca-file": certificates.certificate_path(pki, "front-proxy-ca"),
        "requestheader-allowed-names": certificates.FRONT_PROXY_CLIENT,
        "bind-address": address,
        "secure-port": port,
        "tls-cert-file": certificates.certificate_path(pki, NAME),
        "tls-private-key-file": certificates.key_path(pki, NAME),
        "kubelet-certificate-authority": authority,
        "kubelet-preferred-address-types": "InternalIP",
        "kubelet-use-node-status-port": "true",
        "metric-resolution": f"{RESOLUTION_S}s",
    }
    return commands.Command(
        argv=(str(plan.binary), *(f"--{name}={value}" for name, value in flags.items())),
        version=plan.version,
        # Not /readyz: that waits for a pod whose figures were read twice.
        probe=commands.HttpProbe(f"https://{address}:{port}/livez", ca=authority),
        listens=((address, port, "do without it: leave --metrics-server out"),),
    )
