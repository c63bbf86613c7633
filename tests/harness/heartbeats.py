"""How a node shows that it lives, from what watches of its Lease and of itself have seen."""

import datetime
import itertools

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def renew_gaps(leases):
    moments = sorted(
        datetime.datetime.fromisoformat(event["object"]["spec"]["renewTime"])
        for event in leases.events
        if event["object"]["spec"].get("renewTime")
    )
    return [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(moments)]


def p99(values):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def not_ready(nodes):
    return [
        condition
        for event in nodes.events
        for condition in event["object"]["status"].get("conditions", ())
        if condition["type"] == "Ready" and condition["status"] != "True"
    ]
