"""Names a pod goes by on its machine."""

import pytest

from kci.kcilet.plan import identity
from kci.kube import models
from kci.link import types as link


def hosts(*own, machine=(), **spec):
    aliases = tuple(models.HostAlias(ip=ip, hostnames=names) for ip, *names in own)
    pod = models.Pod(
        metadata=models.ObjectMeta(name="web", namespace="n"),
        spec=models.PodSpec(host_aliases=aliases, **spec),
    )
    found = tuple(link.HostAlias(ip=ip, hostnames=names) for ip, *names in machine)
    return identity.hosts_file(pod, "10.0.0.7", "cluster.local", found)


def test_a_pod_without_aliases_finds_itself_alone():
    assert hosts().endswith("\n10.0.0.7\tweb\n")
    assert hosts(subdomain="s").endswith("\n10.0.0.7\tweb.s.n.svc.cluster.local\tweb\n")


@pytest.mark.guide("annotation kci-host-aliases")
def test_the_machines_names_stand_after_the_pods_own_so_that_the_pods_count():
    text = hosts(("10.0.0.8", "db"), machine=[("198.18.0.9", "db", "registry"), ("::1", "six")])
    assert text.endswith(
        "\n# Entries added by HostAliases.\n10.0.0.8\tdb\n"
        "\n# Entries of the instance's machine.\n198.18.0.9\tdb\tregistry\n::1\tsix\n"
    )
    assert hosts(machine=[("198.18.0.9", "db")]).endswith(
        "web\n\n# Entries of the instance's machine.\n198.18.0.9\tdb\n"
    )
