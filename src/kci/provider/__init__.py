"""Runs the virtual node's pods on Kingsoft Cloud's container instances (KCI), or on a service like it.

May import: vnode, kube, client, contract, kit.
May touch: KCI and Kubernetes through those only.
Must not: open connections of its own.
"""
