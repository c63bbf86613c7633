"""The edge: one verifier in front of every route, parameters in, answers and streams out.

May import: app and what it may import.
May touch: HTTP in.
Must not: decide anything about groups, or know the reconcilers.
"""
