"""The public KCI API as types: operations, container groups, sizes, wire format, errors, signing.

May import: kit.
May touch: nothing.
Must not: do I/O, be `async`.
"""
