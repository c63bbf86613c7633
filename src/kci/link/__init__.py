"""The private API between the KCI service and the kcilet, as types: whole states with a generation.

May import: kit, contract, kube models.
May touch: nothing.
Must not: do I/O, be `async`.
"""
