"""The streams of the kubelet API: commands, attachments, forwarded ports, over WebSocket and SPDY.

May import: vnode.provider, kube models, kit.
May touch: the connections of requests that were let in already (vnode/auth.py).
Must not: decide who may do what; know what is behind the provider.
"""
