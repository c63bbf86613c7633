"""The limits of a pod's network traffic that its annotations ask for. Pure.

Ported from Kubernetes v1.36.3 pkg/util/bandwidth/utils.go: quantities of bits per second, 1k to 1P.
"""

from __future__ import annotations

from kci.kube import errors, quantity

INGRESS = "kubernetes.io/ingress-bandwidth"
EGRESS = "kubernetes.io/egress-bandwidth"
_LEAST, _MOST = 1_000, 10**15


def parse(text: str) -> int:
    """Bits per second; InvalidError in words."""
    bits = quantity.to_bytes(text.strip())
    if not _LEAST <= bits <= _MOST:
        raise errors.InvalidError(f"cannot limit traffic to {text!r}: write 1k to 1P (bits per second)")
    return bits
