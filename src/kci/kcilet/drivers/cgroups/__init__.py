"""One parent cgroup per pod that holds the size granted to its group, on cgroup v1 and v2.

May import: kcilet.ports, kube models, kit.
May touch: the cgroup file systems, below the one parent it was given.
Must not: know another driver; touch a container's own cgroup, which is the runtime's.
"""
