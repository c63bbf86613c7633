"""The virtual kubelet's core: node and pod controllers, kubelet API server, the provider protocol.

May import: kube, kit.
May touch: its own port (the kubelet API); the Kubernetes API through kube.
Must not: know KCI.
"""
