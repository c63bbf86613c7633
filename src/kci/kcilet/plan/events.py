"""Events as a kubelet words them (pkg/kubelet/events/event.go and where they are recorded, 1.36)."""

from __future__ import annotations

import dataclasses

from kci.kcilet.plan import actions
from kci.kube import models, reasons


@dataclasses.dataclass(frozen=True)
class Event:
    """An event about the pod, or about one of its containers."""

    type: str
    reason: reasons.OfRun
    message: str
    container: str = ""


def normal(reason: reasons.OfRun, message: str, container: str = "") -> Event:
    return Event(type="Normal", reason=reason, message=message, container=container)


def warning(reason: reasons.OfRun, message: str, container: str = "") -> Event:
    return Event(type="Warning", reason=reason, message=message, container=container)


def pulling(action: actions.EnsureImage) -> Event:
    return normal("Pulling", f'Pulling image "{action.image}"', action.container)


def already_present(action: actions.EnsureImage) -> Event:
    return normal(
        "Pulled",
        f'Container image "{action.image}" already present on machine and can be accessed by the pod',
        action.container,
    )


def pulled(action: actions.EnsureImage, *, pull_s: float, total_s: float, size_bytes: int) -> Event:
    took, with_waiting = duration(round(pull_s, 3)), duration(round(total_s, 3))
    text = f'Successfully pulled image "{action.image}" in {took} ({with_waiting} including waiting).'
    return normal("Pulled", f"{text} Image size: {size_bytes} bytes.", action.container)


def created(container: str) -> Event:
    return normal("Created", "Container created", container)


def started(container: str) -> Event:
    return normal("Started", "Container started", container)


def killing(action: actions.StopContainer) -> Event:
    return normal("Killing", action.message, action.container)


def probe_failed(kind: str, output: str, container: str) -> Event:
    return warning("Unhealthy", f"{kind} probe failed: {output}", container)


def failed_probe(container: str, kind: str, *, will_restart: bool) -> str:
    """The text of the Killing event."""
    following = ", will be restarted" if will_restart else ""
    return f"Container {container} failed {kind.lower()} probe{following}"


def probe_errored(kind: str, error: str, container: str) -> Event:
    return warning("Unhealthy", f"{kind} probe errored and resulted in unknown state: {error}", container)


def probe_warning(kind: str, output: str, container: str) -> Event:
    return warning("ProbeWarning", f"{kind} probe warning: {output}", container)


def services_not_known(problem: str) -> Event:
    return warning(
        "ServicesNotKnown", f"ClusterIP services are not reached, or as they were known last: {problem}"
    )


def services_not_reached(problem: str) -> Event:
    return warning("ServicesNotReached", f"ClusterIP services are not reached as they should be: {problem}")


def dns_not_reachable(address: str, service: str) -> Event:
    text = (
        f"cannot reach DNS server {address} from this pod: it is the ClusterIP of Service {service}, and the "
        "pod has no kube-proxy; give the pod the annotation k8s.ksyun.com/kci-kube-proxy-enabled: "
        '"true", or its node KCI_KUBE_PROXY=true or a --cluster-dns that is no ClusterIP'
    )
    return warning("DNSNotReachable", text)


def bandwidth_not_limited(problem: str) -> Event:
    return warning("BandwidthNotLimited", problem)


def sandbox_changed() -> Event:
    return normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")


def restart_back_off(pod: models.Pod, container: str) -> Event:
    return warning(
        "BackOff", f"Back-off restarting failed container {container} in pod {pod_text(pod)}", container
    )


def pull_back_off(container: models.Container) -> tuple[Event, Event]:
    return (
        normal("BackOff", f'Back-off pulling image "{container.image}"', container.name),
        warning("Failed", "Error: ImagePullBackOff", container.name),
    )


def deadline_exceeded(message: str) -> Event:
    return normal("DeadlineExceeded", message)


def default_reason(action: actions.Action) -> reasons.OfAttempt:
    """What a failure is called that has no reason of its own."""
    match action:
        case actions.EnsureImage():
            return "ErrImagePull"
        case actions.StartContainer(created=None):
            return "CreateContainerError"
        case actions.StartContainer():
            return "RunContainerError"
        case _:
            return "Failed"


def of_failure(action: actions.Action, reason: reasons.OfAttempt, message: str) -> tuple[Event, ...]:
    """What to tell when an action failed."""
    match action:
        case actions.PrepareVolumes():
            return (warning("FailedMount", message),)
        case actions.RunSandbox():
            return (warning("FailedCreatePodSandBox", f"Failed to create pod sandbox: {message}"),)
        case actions.EnsureImage(container=name, image=image):
            if reason == "ErrImageNeverPull":
                first = warning("ErrImageNeverPull", message, name)
            elif reason == "InvalidImageName":
                first = warning("InspectFailed", message, name)
            else:
                first = warning("Failed", f'Failed to pull image "{image}": {message}', name)
            return first, warning("Failed", f"Error: {reason}", name)
        case actions.StartContainer(container=name):
            return (warning("Failed", f"Error: {message}", name),)
        case actions.LimitTraffic():
            return (bandwidth_not_limited(message),)
        case actions.StopContainer() | actions.StopSandbox():
            return (warning("FailedKillPod", f"error killing pod: {message}"),)
        case actions.RemoveContainer() | actions.RemoveSandbox() | actions.RemoveLeftovers():
            return ()


def pod_text(pod: models.Pod) -> str:
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def duration(seconds: float) -> str:
    """A duration as Go prints it: 10s, 1m20s, 5m0s, 1.5s, 250ms."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{round(rest, 3):g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
