"""Folders of pods' logs: where they are, their rotation and their removal.

May import: kcilet.ports, kcilet.plan's names, kit.
May touch: the folder of logs.
Must not: read a log, or speak gRPC (what the runtime does for it is passed in).
"""
