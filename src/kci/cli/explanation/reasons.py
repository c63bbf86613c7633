"""Why a pod does not run, or not as it should: sentences with what to do, from what is known. Pure.

The first finding is what holds the pod up now; others follow from it, or come next.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from kci.cli.explanation import facts
from kci.contract import errors as catalogue
from kci.kube import models, signing_requests

# The condition that the virtual node writes while it keeps a pod waiting.
NODE_CONDITION = "virtual-kubelet.io/InstanceCreated"
# The kcilet's word for a pod that it cannot run as it is written.
_REFUSED = "CannotRunAsAsked"
_STARTING = {"", "ContainerCreating", "PodInitializing"}
_PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CONFIG = {"CreateContainerConfigError"}
_RUN = {"CreateContainerError", "RunContainerError", "StartError", "PostStartHookError"}
_MISSING = re.compile(r'\b(configmap|secret)s? "([^"]+)" not found', re.IGNORECASE)
_MISSING_KEY = re.compile(
    r"(?:couldn't find key|references non-existent (?:config|secret) key):? (\S+)", re.IGNORECASE
)
# As kubelets say it before they repeat why the last try failed.
_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*"(?:: (?:\w+: )?)?')
_KILLED, _NOT_FOUND, _NOT_EXECUTABLE, _TERMINATED = 137, 127, 126, 143


@dataclasses.dataclass(frozen=True)
class Finding:
    """`reason` is a word as Kubernetes or KCI have it; `log` is what a container said last."""

    reason: str
    message: str
    remedy: str = ""
    container: str = ""
    log: tuple[str, ...] = ()


def explain(known: facts.Facts) -> list[Finding]:
    """Empty of a pod that runs and is ready, or has done what it was to do."""
    pod = known.pod
    if pod.metadata.deletion_timestamp is not None:
        return [_deleted(known)]
    if pod.status.phase == "Succeeded":
        return []
    if not pod.spec.node_name:
        return [*_unbound(known)]
    found = [*_of_node(known), *_refused(known)]
    if pod.status.phase == "Failed":
        found += _failed(known)
    found += _of_containers(known)
    if not found and pod.status.phase in {"", "Pending"}:
        found += _pending(known)
    if not found and not facts.is_ready(pod) and pod.status.phase == "Running":
        found += _unready(known)
    return found


# ---- before there is a node, and the node -----------------------------------------------------------


def _deleted(known: facts.Facts) -> Finding:
    pod = known.pod
    finalizers = "the node has confirmed that nothing of it runs any more"
    return Finding(
        "Deleted",
        f"The pod is being deleted: its containers have until {pod.metadata.deletion_timestamp} to end, and "
        f"it goes once {finalizers}.",
        "wait; if its node is gone for good: "
        f"kubectl delete pod {pod.metadata.name} -n {pod.metadata.namespace} --force",
    )


def _unbound(known: facts.Facts) -> Iterator[Finding]:
    pod = known.pod
    bound = facts.condition(pod, "PodScheduled")
    if bound is not None and bound.reason == "SchedulingGated":
        yield Finding(
            "SchedulingGated", "The pod waits until its scheduling gates are taken away.", bound.message
        )
    elif bound is not None and bound.status == "False":
        yield Finding(
            bound.reason or "Unschedulable",
            f"No node was found for the pod: {bound.message}",
            _scheduling_remedy(bound.message),
        )
    else:
        yield Finding(
            "NotScheduled",
            "No scheduler has looked at the pod yet.",
            "look whether kube-scheduler runs, and whether spec.schedulerName names one that does",
        )
    if known.nodes == () and not known.requests:
        yield Finding(
            "NoVirtualNode",
            "The cluster has no virtual node.",
            "start one (`kci up`, or the Deployment of virtual-kubelet), and look at its log if it runs",
        )
    for node in known.nodes or ():
        yield from _unready_node(node)
    yield from _waiting_requests(known)


def _scheduling_remedy(message: str) -> str:
    """By what the scheduler's sentence names."""
    found = []
    if "untolerated taint" in message:
        found.append(
            "tolerate the virtual node's taint (a toleration with key virtual-kubelet.io/provider and "
            "operator Exists)"
        )
    if "node affinity/selector" in message or "node selector" in message:
        found.append("check nodeSelector and affinity: virtual nodes have the label type=virtual-kubelet")
    if "Insufficient" in message or "Too many pods" in message:
        found.append(
            "ask for less, or raise the node's capacity (`capacity` in the file of virtual-kubelet's "
            "--provider-config)"
        )
    if "unschedulable" in message:
        found.append("uncordon the node: kubectl uncordon NODE")
    if "persistentvolumeclaim" in message or "volume" in message:
        found.append("look at the pod's PersistentVolumeClaims: kubectl get pvc")
    return "; ".join(found) or "compare the pod's demands with `kubectl describe node`"


def _of_node(known: facts.Facts) -> Iterator[Finding]:
    node, name = known.node, known.pod.spec.node_name
    if node is None:
        if not any(f"node {name}" in text for text in known.unknown):
            yield Finding(
                "NodeGone",
                f"The pod is bound to the node {name}, which does not exist.",
                "start that node again under the same name, or delete the pod so that another one is made",
            )
        return
    if not facts.is_virtual(node):
        yield Finding(
            "OrdinaryNode",
            f"The pod is on {name}, which is no virtual node: a kubelet runs it, and KCI has no part in it.",
            "see `kubectl describe pod`",
        )
        return
    unready = [*_unready_node(node)]
    yield from unready
    if unready:
        yield from _waiting_requests(known)


def _unready_node(node: models.Node) -> Iterator[Finding]:
    ready = facts.readiness(node)
    if ready is not None and ready.status == "True":
        return
    name = node.metadata.name
    if ready is None:
        why = "it has told nothing of itself yet"
    elif ready.status == "Unknown":
        why = f"nothing was heard of it since {ready.last_heartbeat_time or ready.last_transition_time}"
    else:
        why = ready.message or ready.reason
    yield Finding(
        "NodeNotReady",
        f"The node {name} is not ready: {why}.",
        "look whether its virtual-kubelet runs and reaches the API server; its log says what it waits for",
    )


def _waiting_requests(known: facts.Facts) -> Iterator[Finding]:
    for request in known.requests:
        name, node_name = request.metadata.name, signing_requests.node_of(request)
        is_identity = request.spec.signer_name == signing_requests.CLIENT_SIGNER
        lacks = "has no identity" if is_identity else "answers neither kubectl logs nor kubectl exec"
        is_absent = not known.pod.spec.node_name and not known.nodes
        begin = "The cluster has no virtual node, and the" if is_absent else "The"
        sender = "its account" if is_absent else "the node itself or its account"
        yield Finding(
            "CertificateWaits",
            f"{begin} signing request {name} for the node {node_name}, sent by {request.spec.username} "
            f"({request.spec.signer_name}), waits for somebody to approve it; until then the node {lacks}.",
            f"see with kubectl describe csr {name} that {node_name} is a virtual node of yours and that "
            f"{sender} sent it; only then: kubectl certificate approve {name}",
        )


# ---- the virtual node and KCI --------------------------------------------------------------------------


def _refused(known: facts.Facts) -> Iterator[Finding]:
    found = facts.condition(known.pod, NODE_CONDITION)
    if found is None or found.status != "False" or known.pod.status.phase == "Failed":
        return
    entry = catalogue.CATALOGUE.get(found.reason)
    if entry is not None:
        yield Finding(
            found.reason,
            f"KCI refused to make the pod's instance with {found.reason}: {found.message}",
            _kci_remedy(entry),
        )
    elif found.reason in {"KciUnavailable", "ProviderNotReady", "CreateOutcomeUnknown", "Unreachable"}:
        yield Finding(
            found.reason,
            f"The node cannot have KCI make the pod's instance now, and goes on trying: {found.message}",
            "look whether the KCI service runs and KCI_ENDPOINT names it (`kci status` for a stack)",
        )
    else:
        # The node's own sentence has the remedy in it.
        yield Finding(found.reason, f"The node refuses the pod: {found.message}", "change the pod as it says")


_KCI_REMEDIES = {
    "InsufficientAddresses": "every address of the subnet is taken: end groups that nobody needs, or give "
    "the pod or the node a larger subnet (kci subnets, kci subnet create)",
    "SubnetNotFound": "name a subnet that exists: kci subnets",
    "SecurityGroupNotFound": "name security groups that exist: kci security-groups",
    "RequestExpired": "set the clock of the machine that virtual-kubelet runs on",
    "SignatureDoesNotMatch": "check KCI_ACCESS_KEY and KCI_SECRET_KEY of the node",
    "SecurityTokenExpired": "renew the temporary keys that the node is given",
    "AccessDenied": "use keys of an account that may make container groups",
    "LimitExceeded": "end groups that nobody needs, or have the account's quota raised",
}


def _kci_remedy(entry: catalogue.Entry) -> str:
    return _KCI_REMEDIES.get(entry.code, f"{entry.kind.value} (docs/reference/errors.md)")


def _failed(known: facts.Facts) -> Iterator[Finding]:
    status = known.pod.status
    if not status.reason:
        return
    remedy = {
        "InstanceLost": "delete the pod: whatever controls it makes another",
        "CreateError": "look at the message, then delete the pod: whatever controls it makes another",
        "DeadlineExceeded": "raise spec.activeDeadlineSeconds, or find out what takes so long",
        "Evicted": "give the pod what it needs, then delete it",
    }
    yield Finding(
        status.reason,
        f"The pod has failed: {status.message or status.reason}.".replace("..", "."),
        remedy.get(status.reason, "delete the pod once the cause is mended: a failed pod is never run again"),
    )


# ---- containers ------------------------------------------------------------------------------------------


def _of_containers(known: facts.Facts) -> Iterator[Finding]:
    pod = known.pod
    for one in pod.status.init_container_statuses:
        found = [*_of_container(known, one, "init container")]
        sidecar = any(init.name == one.name and init.is_sidecar for init in pod.spec.init_containers)
        if not found and pod.status.phase in {"", "Pending"} and one.state.running and not sidecar:
            found = [_running_init(known, one)]
        yield from found
        if found:
            # Those after it wait for it.
            return
    for one in pod.status.container_statuses:
        yield from _of_container(known, one, "container")


def _running_init(known: facts.Facts, one: models.ContainerStatus) -> Finding:
    names = [init.name for init in known.pod.spec.init_containers]
    since = one.state.running.started_at if one.state.running else None
    return Finding(
        "InitRuns",
        f"The init container {one.name} ({names.index(one.name) + 1} of {len(names)}) runs since {since}; "
        "the containers are started once it has ended.",
        f"wait, or see what it does: {_logs_command(known, one.name)}",
        one.name,
        known.logs.get(one.name, ()),
    )


def _of_container(known: facts.Facts, one: models.ContainerStatus, kind: str) -> Iterator[Finding]:
    waiting, ended, before = one.state.waiting, one.state.terminated, one.last_state.terminated
    if waiting is not None and waiting.reason in _PULL:
        yield _not_pulled(known, one, kind)
    elif waiting is not None and waiting.reason in _CONFIG:
        yield _not_configured(known, waiting.reason, waiting.message, f"The {kind} {one.name}", one.name)
    elif waiting is not None and waiting.reason == _REFUSED:
        yield Finding(
            _REFUSED, f"The machine refuses the pod: {waiting.message}", "change the pod as it says", one.name
        )
    elif waiting is not None and waiting.reason in _RUN:
        yield Finding(
            waiting.reason,
            f"The {kind} {one.name} cannot be started: {waiting.message}",
            "correct what the message names, such as its command, working directory or user",
            one.name,
        )
    elif waiting is not None and waiting.reason == "CrashLoopBackOff":
        yield _crashes(known, one, before, kind)
    elif waiting is not None and waiting.reason not in _STARTING:
        yield Finding(
            waiting.reason,
            f"The {kind} {one.name} waits: {waiting.message or waiting.reason}",
            "see `kubectl describe pod`",
            one.name,
        )
    elif ended is not None and ended.exit_code:
        yield _ended(known, one, ended, kind)
    elif before is not None and before.exit_code and one.restart_count and not one.ready:
        yield _crashes(known, one, before, kind)


def _not_pulled(known: facts.Facts, one: models.ContainerStatus, kind: str) -> Finding:
    waiting = one.state.waiting
    assert waiting is not None
    image = next((c.image for c in known.pod.spec.all_containers if c.name == one.name), one.image)
    said = _BACK_OFF.sub("", waiting.message)
    if not said:
        # Why is in the event of the try before.
        told = [event.message for event in known.told("Failed") if f'pull image "{image}": ' in event.message]
        said = told[-1].partition(f'pull image "{image}": ')[2] if told else said
    return Finding(
        waiting.reason,
        f"The image {image} of the {kind} {one.name} cannot be had: {said or waiting.reason}",
        _pull_remedy(waiting.reason, said, image),
        one.name,
    )


def _pull_remedy(reason: str, said: str, image: str) -> str:
    text = said.lower()
    if reason == "ErrImageNeverPull":
        return "set imagePullPolicy to IfNotPresent or Always: this machine does not have the image"
    if reason == "InvalidImageName":
        return "correct the image's name: [HOST[:PORT]/]NAME[:TAG]"
    if any(word in text for word in ("unauthorized", "denied", "forbidden", "authentication", "401", "403")):
        return (
            "if it is a private image: make a Secret of type kubernetes.io/dockerconfigjson with its "
            "registry's keys and name it in spec.imagePullSecrets; else check the name"
        )
    if "not found" in text or "manifest unknown" in text or "404" in text:
        return f"check name and tag of {image}: the registry has no such image"
    if any(
        word in text
        for word in ("no such host", "timeout", "refused", "unreachable", "dial", "deadline", "eof")
    ):
        return "check that the machine reaches the registry, and the registry's name"
    return "see the registry's answer"


def _not_configured(known: facts.Facts, reason: str, said: str, who: str, container: str = "") -> Finding:
    namespace = known.pod.metadata.namespace
    missing, key = _MISSING.search(said), _MISSING_KEY.search(said)
    if missing:
        kind, name = missing[1].lower(), missing[2]
        what = "ConfigMap" if kind == "configmap" else "Secret"
        options = "" if kind == "configmap" else " generic"
        return Finding(
            reason,
            f"{who} waits for the {what} {name}, which the namespace {namespace} does not have: {said}",
            f"make it (kubectl create {kind}{options} {name} -n {namespace} …), and the pod goes on by "
            "itself; or mark the reference optional",
            container,
        )
    remedy = "add the key, or correct the pod's reference to it" if key else "correct what the message names"
    return Finding(reason, f"{who} cannot be made: {said}", remedy, container)


def _crashes(
    known: facts.Facts, one: models.ContainerStatus, last: models.ContainerStateTerminated | None, kind: str
) -> Finding:
    how = f" It ended last {_how(last)}." if last is not None else ""
    return Finding(
        "CrashLoopBackOff",
        f"The {kind} {one.name} ends again and again, {one.restart_count} times until now, and is started "
        f"anew after growing pauses.{how}",
        _exit_remedy(known, one, last),
        one.name,
        known.logs.get(one.name, ()),
    )


def _ended(
    known: facts.Facts, one: models.ContainerStatus, ended: models.ContainerStateTerminated, kind: str
) -> Finding:
    return Finding(
        ended.reason or "Error",
        f"The {kind} {one.name} ended {_how(ended)}.",
        _exit_remedy(known, one, ended),
        one.name,
        known.logs.get(one.name, ()),
    )


def _how(ended: models.ContainerStateTerminated) -> str:
    reason = f" ({ended.reason})" if ended.reason not in {"", "Error", "Completed"} else ""
    when = f" at {ended.finished_at}" if ended.finished_at else ""
    said = f", saying: {' '.join(ended.message.split())}" if ended.message else ""
    return f"with exit code {ended.exit_code}{reason}{when}{said}"


def _exit_remedy(
    known: facts.Facts, one: models.ContainerStatus, ended: models.ContainerStateTerminated | None
) -> str:
    if ended is not None and ended.reason == "OOMKilled":
        return "it used more memory than its limit or its instance has: raise the memory, or have it use less"
    failed = [
        event.message
        for event in known.told("Killing")
        if f"Container {one.name} failed" in event.message and "probe" in event.message
    ]
    if failed:
        return (
            f"its probe had it stopped ({failed[-1]}): see what the probe asks, and how long the start takes"
        )
    code = ended.exit_code if ended is not None else None
    if code == _NOT_FOUND:
        return "its command is not in the image: check command and args"
    if code == _NOT_EXECUTABLE:
        return "its command cannot be run: check that it is executable and made for this machine"
    if code == _KILLED:
        return "something killed it: see the pod's events, and its memory"
    if code == _TERMINATED:
        return "it was told to end: see the pod's events"
    if code == 0:
        return "it ends by itself, and restartPolicy Always starts it again: run it as a Job, or have it stay"
    previous = " --previous" if one.restart_count else ""
    return f"see what it says: {_logs_command(known, one.name)}{previous}"


def _logs_command(known: facts.Facts, container: str) -> str:
    metadata = known.pod.metadata
    return f"kubectl logs {metadata.name} -n {metadata.namespace} -c {container}"


# ---- without any word of a container -------------------------------------------------------------------


def _pending(known: facts.Facts) -> Iterator[Finding]:
    """Bound, not refused, and nothing told of its containers."""
    mounts = known.told("FailedMount")
    boxes = known.told("FailedCreatePodSandBox")
    if mounts:
        yield _not_configured(known, "FailedMount", mounts[-1].message, "The pod")
    elif boxes:
        yield Finding(
            "FailedCreatePodSandBox",
            boxes[-1].message,
            "the machine goes on trying; the kcilet's and the runtime's logs say more",
        )
    elif known.pod.status.reason:
        status = known.pod.status
        yield Finding(status.reason, f"The pod waits: {status.message or status.reason}", "do as it says")
    elif pull := _pulling(known):
        yield pull
    elif known.is_service_known and known.group is None and known.told("InstanceCreated"):
        yield Finding(
            "GroupGone",
            "The node had an instance made, but KCI has no container group for the pod any more.",
            "wait for the node's next look, within minutes: it fails the pod, and a controller makes another",
        )
    elif known.group is not None or known.told("InstanceCreated"):
        group = known.group
        told = f": {group.status}" if group is not None else ""
        why = f" ({group.status_message or group.status_reason})" if group and group.status_reason else ""
        yield Finding(
            "Starting",
            f"KCI has the pod's container group{told}{why}, and its containers are being made; a machine "
            "starts a few pods at once, and others wait for their turn.",
            "wait a moment and ask again; if it stays so, look whether the kcilet runs (`kci status`)",
        )
    else:
        yield Finding(
            "NotTaken",
            f"The pod is bound to {known.pod.spec.node_name}, which has not told of it yet.",
            "wait a moment and ask again; if it stays so, look at the virtual-kubelet's log",
        )


def _pulling(known: facts.Facts) -> Finding | None:
    begun = {event.involved_object.field_path: event for event in known.told("Pulling")}
    for event in known.told("Pulled"):
        begun.pop(event.involved_object.field_path, None)
    if not begun:
        return None
    event = next(iter(begun.values()))
    since_s = facts.moment_s(event)
    took = f" since {known.now.timestamp() - since_s:.0f} s" if since_s is not None else ""
    return Finding(
        "Pulling",
        f"An image is being pulled{took}: {event.message}.",
        "wait; a large image takes its time, and a slow registry longer",
    )


def _unready(known: facts.Facts) -> Iterator[Finding]:
    """It runs, and something keeps it from being ready."""
    pod = known.pod
    for one in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        spec = next((c for c in pod.spec.all_containers if c.name == one.name), None)
        if one.ready or spec is None or not one.state.running:
            continue
        is_starting = spec.startup_probe is not None and one.started is False
        kind = "startup" if is_starting else "readiness"
        told = [
            event.message
            for event in known.told("Unhealthy")
            if event.message.lower().startswith(kind)
            and f"{{{one.name}}}" in event.involved_object.field_path
        ]
        said = f": {told[-1]}" if told else "; nothing was told of a failure yet"
        yield Finding(
            "Unhealthy",
            f"The container {one.name} runs, but its {kind} probe does not succeed{said}.",
            f"check what the {kind} probe asks (path, port, command) and whether the container answers that",
            one.name,
            known.logs.get(one.name, ()),
        )
    ready = facts.condition(pod, "Ready")
    if ready is not None and ready.reason == "ReadinessGatesNotReady":
        yield Finding(ready.reason, f"The pod waits for its readiness gates: {ready.message}", "")
