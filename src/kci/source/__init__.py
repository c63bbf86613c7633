"""Where a Pod comes from and where its status goes: a user's cluster now, API parameters later.

May import: kube, link, contract, kit.
May touch: a user's Kubernetes API, through kube.
Must not: know CRI, mounts or the service.
"""
