"""Names a pod goes by on its machine: hostname, /etc/hosts, folders.

Ported from pkg/kubelet/kubelet_pods.go (managedHostsFileContent, GeneratePodHostNameAndDomain) and
pkg/kubelet/kuberuntime/helpers.go (BuildPodLogsDirectory), Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Sequence

from kci.kube import models
from kci.link import types as link

HOSTNAME_LENGTH = 63
_LOCAL = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def hostname(pod: models.Pod) -> str:
    name = pod.spec.hostname or pod.metadata.name
    return name if len(name) <= HOSTNAME_LENGTH else name[:HOSTNAME_LENGTH].rstrip("-.")


def domain(pod: models.Pod, cluster_domain: str) -> str:
    if not pod.spec.subdomain:
        return ""
    return f"{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"


def sandbox_hostname(pod: models.Pod, cluster_domain: str) -> str:
    """What the containers' kernel says: with setHostnameAsFQDN the whole name."""
    short, where = hostname(pod), domain(pod, cluster_domain)
    return f"{short}.{where}" if pod.spec.set_hostname_as_fqdn and where else short


def hosts_file(
    pod: models.Pod, address: str, cluster_domain: str, machine: Sequence[link.HostAlias] = ()
) -> str:
    """Differs: the names of the group's machine come too, after the pod's own: the first of a name counts."""
    short, where = hostname(pod), domain(pod, cluster_domain)
    names = f"{short}.{where}\t{short}" if where else short
    own = [(alias.ip, *alias.hostnames) for alias in pod.spec.host_aliases]
    return "".join(
        (
            f"{_LOCAL}{address}\t{names}\n",
            _entries("# Entries added by HostAliases.", own),
            _entries("# Entries of the instance's machine.", [(one.ip, *one.hostnames) for one in machine]),
        )
    )


def _entries(heading: str, lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    return f"\n{heading}\n" + "".join("\t".join(words) + "\n" for words in lines)


def log_folder(pod: models.Pod) -> str:
    """The pod's folder beneath that of all logs."""
    return f"{pod.metadata.namespace}_{pod.metadata.name}_{pod.metadata.uid}"
