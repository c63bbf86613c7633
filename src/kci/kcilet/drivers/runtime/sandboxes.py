"""A pod's sandbox in the CRI's words.

Ported from pkg/kubelet/kuberuntime/kuberuntime_sandbox.go (1.36), without host ports: a pod has an
address of its own.
"""

from __future__ import annotations

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import labels, security
from kci.kcilet.drivers.runtime.api import api_pb2
from kci.kube import models


def to_sandbox_config(spec: ports.SandboxSpec) -> api_pb2.PodSandboxConfig:
    context = spec.pod.spec.security_context or models.PodSecurityContext()
    return api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(
            name=spec.pod.metadata.name,
            namespace=spec.pod.metadata.namespace,
            uid=spec.pod.uid,
            attempt=spec.attempt,
        ),
        hostname=spec.hostname,
        log_directory=spec.log_directory,
        dns_config=api_pb2.DNSConfig(
            servers=spec.dns.servers, searches=spec.dns.searches, options=spec.dns.options
        ),
        labels={**labels.of_pod(spec.pod), labels.GROUP_ID: spec.group_id},
        annotations={
            labels.HOSTNAME: spec.hostname,
            labels.LOG_DIRECTORY: spec.log_directory,
            labels.CGROUP_PARENT: spec.cgroup_parent,
        },
        linux=api_pb2.LinuxPodSandboxConfig(
            cgroup_parent=spec.cgroup_parent,
            sysctls={sysctl.name: sysctl.value for sysctl in context.sysctls},
            security_context=security.to_sandbox_context(spec.pod),
        ),
    )


def to_known_config(sandbox: api_pb2.PodSandbox) -> api_pb2.PodSandboxConfig:
    """The configuration as far as CreateContainer needs it, from what the runtime kept of it."""
    return api_pb2.PodSandboxConfig(
        metadata=sandbox.metadata,
        hostname=sandbox.annotations[labels.HOSTNAME],
        log_directory=sandbox.annotations[labels.LOG_DIRECTORY],
        labels=sandbox.labels,
        annotations=sandbox.annotations,
        linux=api_pb2.LinuxPodSandboxConfig(cgroup_parent=sandbox.annotations[labels.CGROUP_PARENT]),
    )
