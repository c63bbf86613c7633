"""What of the guide more than one test file uses: its two samples, a DaemonSet, how a refused pod looks."""

import line as lines
from line import IDLE, eventually, pod

NODE = "virtual-kubelet"
BY_AFFINITY, BY_TOLERATION = "by-affinity", "by-toleration"
AWAY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "type", "operator": "NotIn", "values": [NODE]}]}
            ]
        }
    }
}


def deployment(name):
    """The guide's two: one comes by node affinity and tolerates the older key, one tolerates the key of the
    guide's text.
    """
    spec = {
        "containers": [{"name": "web", "image": "nginx:latest", "imagePullPolicy": "IfNotPresent"}],
        "terminationGracePeriodSeconds": 1,
    }
    if name == BY_AFFINITY:
        terms = [{"matchExpressions": [{"key": "type", "operator": "In", "values": [NODE]}]}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec |= {
            "affinity": {"nodeAffinity": required},
            "tolerations": [
                {"key": "rbkci-virtual-kubelet.io/provider", "value": "kingsoftcloud", "effect": "NoSchedule"}
            ],
        }
    else:
        spec["tolerations"] = [
            {
                "key": "virtual-kubelet.io/provider",
                "operator": "Equal",
                "value": "kingsoftcloud",
                "effect": "NoSchedule",
            }
        ]
    size = {"k8s.ksyun.com/kci-instance-cpu": "4", "k8s.ksyun.com/kci-instance-memory": "8"}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": size}, "spec": spec},
        },
    }


def daemon_set(name, **spec):
    labels = {"app": name}
    container = {"name": "main", "image": "busybox:latest", "command": ["/bin/sh", "-c", IDLE]}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [container],
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [{"operator": "Exists"}],
                    **spec,
                },
            },
        },
    }


def remove(line, kind, name):
    line.kubectl("delete", kind, name, "--wait=false")
    eventually(lambda: not line.pods(f"app={name}"), what=f"the pods of {name} are gone")


def events_of(line, uid, reason):
    selector = f"involvedObject.uid={uid},reason={reason}"
    return line.get("events", "-A", "--field-selector", selector)["items"]


def refused(line, selector, namespace="default"):
    """The one pod, once it says why it is refused."""
    found = list(line.pods(selector, namespace=namespace).values())
    assert len(found) == 1, found
    return found[0] if found[0]["status"].get("reason") else None


def check_refused(line, body, reason, field, remedy):
    """Pending with reason, condition and message; one Event; and nothing made."""
    status, uid = body["status"], body["metadata"]["uid"]
    assert (status["phase"], status["reason"]) == ("Pending", reason)
    assert field in status["message"]
    assert remedy in status["message"]
    (condition,) = [
        one for one in status["conditions"] if one["type"] == "virtual-kubelet.io/InstanceCreated"
    ]
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "False",
        reason,
        status["message"],
    )
    told = eventually(lambda: events_of(line, uid, reason), what="an Event says so")
    assert [(one["type"], one["message"], one.get("count", 1)) for one in told] == [
        ("Warning", status["message"], 1)
    ]
    assert "containerStatuses" not in status
    assert uid not in {instance.uid for instance in line.instances()}
    assert uid not in groups(line)


def groups(line):
    """All container groups with their labels, as the console shows them."""
    return line.kci("groups", "-o", "json")


def check_daemon_set(line, name):
    """It makes one pod, which is refused, and an affinity keeps it away."""
    with lines.Watch(line, "/api/v1/namespaces/default/pods?labelSelector=app%3Dagent") as watch:
        line.apply(daemon_set(name))
        body = eventually(lambda: refused(line, f"app={name}") if line.pods(f"app={name}") else None)
        check_refused(
            line, body, "DaemonSetNotSupported", "metadata.ownerReferences[0]", "type NotIn [virtual-kubelet]"
        )
        # What a DaemonSet does with a failed pod it does within seconds; a later change shows that its
        # controller has looked since.
        line.kubectl("annotate", "daemonset", name, "looked=again")
        line.apply(pod("bystander", IDLE))
        line.wait_ready("pod/bystander")
        line.kubectl("delete", "pod", "bystander")
        assert list(watch.objects()) == [body["metadata"]["uid"]]
        assert line.get("daemonset", name)["status"]["currentNumberScheduled"] == 1
        line.apply(daemon_set(name, affinity=AWAY))
        eventually(lambda: not line.pods(f"app={name}"), what="the DaemonSet leaves the node alone")
        status = line.get("daemonset", name)["status"]
        assert (status["desiredNumberScheduled"], status["numberMisscheduled"]) == (0, 0)
        assert list(watch.objects()) == [body["metadata"]["uid"]]
    line.kubectl("delete", "daemonset", name)


def check_row(line, name):
    """What `kubectl get node` shows of a virtual node."""
    found, status, roles, _, version = line.kubectl("get", "node", name, "--no-headers").split()
    assert (found, status, roles) == (name, "Ready", "agent")
    assert version.startswith("v1.")
    assert "-vk-v" in version
