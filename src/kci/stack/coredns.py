"""CoreDNS as the cluster DNS of a stack: its configuration and command line. Pure.

It listens on the gateway address, which every pod reaches, with kube-proxy or without; whether it is ready
and its metrics are told on loopback. What it may read of the cluster is clusterdns.py's.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
from collections.abc import Sequence

from kci.stack import addresses, commands, layout, record

LOOPBACK = "127.0.0.1"
# A resolv.conf names no port, so there is no other.
PORT = 53
REVERSE_ZONES = "in-addr.arpa ip6.arpa"
# KCI's internal endpoint, and whatever forms of it have a service or region before it: plain HTTP, so a name
# and this port are all that leads calls to the stack's own service.
INTERNAL_ZONE, INTERNAL_PORT = "internal.api.ksyun.com", 80
# CoreDNS takes no more.
MAX_RESOLVERS = 15
MAX_CONCURRENT = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """What it is started with. `resolvers` are asked for what is not the cluster's."""

    where: layout.Layout
    binary: pathlib.Path
    version: str
    ranges: addresses.Ranges
    choices: record.Choices
    cluster_domain: str
    resolvers: tuple[str, ...] = ()
    # The stack's service listens where KCI's internal endpoint does.
    answers_internal_name: bool = False

    @property
    def address(self) -> str:
        return str(self.ranges.gateway)


def read_resolvers(resolv_conf: str, *, own: str, loopback_is_ours: bool) -> tuple[str, ...]:
    """The servers of a resolv.conf that CoreDNS can ask: never itself, and those on the machine's loopback
    only from the machine's network namespace.
    """
    found: dict[str, None] = {}
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver" or words[1] == own:
            continue
        try:
            address = ipaddress.ip_address(words[1])
        except ValueError:
            continue
        if address.is_loopback and not loopback_is_ours:
            continue
        found[words[1]] = None
    return tuple(found)[:MAX_RESOLVERS]


def corefile(plan: Plan) -> str:
    """As that of kubeadm, for one server outside of the cluster.

    Names of the cluster are not cached: the kubernetes plugin knows them anyway, and a Service that was
    asked for too early is there as soon as it is.
    """
    domain = plan.cluster_domain
    return f"""\
# Written at each start of the stack. A change is taken up within seconds, and lost with the next start.
. {{
    bind {plan.address}
    reload 5s 2s
    ready {LOOPBACK}:{plan.choices.dns_ready_port}
    prometheus {LOOPBACK}:{plan.choices.dns_metrics_port}
    errors {{
        consolidate 1m .* warning show_first
    }}
    loadbalance
    cache 30 {{
        disable success {domain}
        disable denial {domain}
    }}
    kubernetes {domain} {REVERSE_ZONES} {{
        kubeconfig {plan.where.kubeconfig_of("coredns")}
        pods insecure
        fallthrough {REVERSE_ZONES}
        ttl 30
    }}
{_outside(plan.resolvers)}}}
{_internal(plan.address) if plan.answers_internal_name else ""}"""


def _internal(address: str) -> str:
    """A zone of its own, so that none of its names is ever asked of somebody else."""
    return f"""\
{INTERNAL_ZONE} {{
    bind {address}
    errors
    template IN A {{
        answer "{{{{ .Name }}}} 30 IN A {address}"
    }}
    template ANY ANY {{
        rcode NOERROR
    }}
}}
"""


def _outside(resolvers: Sequence[str]) -> str:
    if not resolvers:
        # Nobody to ask: a pod is told at once, or it would wait for its own time-outs.
        return """\
    template ANY ANY {
        rcode NXDOMAIN
    }
"""
    return f"""\
    loop
    forward . {" ".join(resolvers)} {{
        max_concurrent {MAX_CONCURRENT}
        failfast_all_unhealthy_upstreams
    }}
"""


def command(plan: Plan) -> commands.Command:
    return commands.Command(
        argv=(str(plan.binary), "-conf", str(plan.where.corefile)),
        version=plan.version,
        probe=commands.HttpProbe(f"http://{LOOPBACK}:{plan.choices.dns_ready_port}/ready"),
        listens=(
            (plan.address, PORT, "do without it: --dns cluster"),
            (LOOPBACK, plan.choices.dns_ready_port, ""),
            (LOOPBACK, plan.choices.dns_metrics_port, ""),
        ),
    )
