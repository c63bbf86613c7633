"""What pods use, as the kubelet API tells it: /stats/summary and /metrics/resource.

May import: vnode.provider, kube models, kit.
May touch: the kubelet API's requests; the provider, through its port.
Must not: know KCI; keep more than two samples.
"""
