"""Which store this machine serves, kept over restarts.

May import: kcilet.ports, link, kit.
May touch: its one file in the kcilet's state folder.
Must not: know another driver; decide whether a store is the right one.
"""
