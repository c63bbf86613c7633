"""Pods' volumes as folders of this machine, and files of our own for a pod.

May import: kcilet.ports, kube models, kit.
May touch: files and mounts below `pods` in the state folder it was given.
Must not: know another driver; follow a link that a container may have made.
"""
