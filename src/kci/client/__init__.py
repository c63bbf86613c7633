"""Typed asynchronous client of the KCI API, ours and the real cloud's: signing, limits, capability discovery.

May import: contract, kit.
May touch: HTTP to the KCI endpoint.
Must not: know Kubernetes.
"""
