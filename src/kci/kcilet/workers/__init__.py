"""One worker per pod UID: look, plan, act, tell; and the agent that holds them together.

May import: kcilet.ports, kcilet.plan, source's port, kube's pure parts, link, kit.
May touch: the machine and the source, through their ports.
Must not: know a driver or a kind of source.
"""
