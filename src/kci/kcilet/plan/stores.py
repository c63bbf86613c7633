"""Whether the store that asks is the one this machine serves.

A service that lost its folder has an empty store: to do what it wants would end every pod. The store tells
its id, which it got when it was made. An older copy of the same store has the same id and is not
noticed here; the service itself refuses to open one beside its lock file.
"""

from __future__ import annotations


def to_refusal(served: str, asking: str, *, place: str) -> str:
    """Why nothing is done for the store that asks; empty if it is the right one. `place` is the file that
    holds which one that is.
    """
    if not served or not asking or served == asking:
        return ""
    return (
        f"cannot serve store {asking}: this machine serves store {served}; no pod is started or ended. Put"
        f" back the newest copy of that one, or remove {place} to serve this one, which ends every pod that"
        " it does not know"
    )
