"""Where groups run: one port, and an adapter for each kind of place.

May import: app, domain, contract, link, kit.
May touch: what the adapter stands for (`local`: the kcilet's unix socket).
Must not: know the store's tables, HTTP's edge or the reconcilers.
"""
