"""The instance agent: runs the pods of container groups on this machine through CRI, like a small kubelet.

May import: kit, link, contract, kube, source; sub-packages as each says.
May touch: containerd, mounts, network namespaces, cgroups, its own sockets: drivers only.
Must not: know the service's inside, or be the only reason a container keeps running.
"""
