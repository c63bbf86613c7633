"""Folders of pods' logs: where they are, and their removal.

May import: kcilet.ports, kcilet.plan's names, kit.
May touch: the folder of logs.
Must not: read or rotate a log.
"""
