"""Pods' sandboxes, containers and images through the Container Runtime Interface (CRI v1).

May import: kcilet.ports, kube models and quantities, kit.
May touch: the runtime's gRPC socket; it makes the folders that logs are written to, and ends a hung shim.
Must not: know another driver, or decide what a pod needs.
"""
