"""The only door to a Kubernetes API server: client, reflector, typed models, pure pod semantics.

May import: kit.
May touch: the Kubernetes API.
Must not: know KCI.
"""
