"""The KCI service: signed API, store, reconcilers, engines. `main.py` wires them.

May import: kit, contract, link; sub-packages as each says.
May touch: its port, its database, its engine: each through the sub-package for it.
Must not: know Kubernetes beyond what link carries, or keep state outside the store.
"""
