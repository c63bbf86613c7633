"""Kubernetes' quantities ("500m", "1Gi", "1e3") as whole numbers, rounded up as the kubelet does.

Ported from k8s.io/apimachinery v0.36 pkg/api/resource (quantity.go, suffix.go). Exact: no floats.
"""

from __future__ import annotations

import fractions
import functools
import math
import re

from kci.kube import errors

_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d{1,3})?", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_LARGEST = 2**63 - 1
_LONGEST = 256


# A cluster's pods have few different texts, and each is read again with every change of a pod.
@functools.lru_cache(maxsize=1024)
def to_milli(quantity: str | float) -> int:
    """Thousandths, for CPU."""
    return _whole(parse(quantity) * 1000)


@functools.lru_cache(maxsize=1024)
def to_bytes(quantity: str | float) -> int:
    """Whole units, for memory and storage."""
    return _whole(parse(quantity))


@functools.lru_cache(maxsize=1024)
def parse(quantity: str | float) -> fractions.Fraction:
    """The exact value; InvalidError if it is no quantity."""
    text = str(quantity)
    match = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise errors.InvalidError(f"cannot read {text[:40]!r} as a quantity such as 500m, 2 or 1Gi")
    number, suffix = fractions.Fraction(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * (1 << 10 * _BINARY[suffix])
    exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    scale = fractions.Fraction(f"1e{exponent}")
    return number * scale


def _whole(value: fractions.Fraction) -> int:
    # Away from zero, as upstream.
    whole = math.ceil(value) if value > 0 else math.floor(value)
    return max(-_LARGEST, min(whole, _LARGEST))
