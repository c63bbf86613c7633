"""`kci explain`: where a pod's start time went, and why it does not run. Facts are gathered once; the rest is
pure.

May import: what the command may.
May touch: the user's cluster and the KCI service, in `gather` alone.
Must not: know a trace collector, or need one.
"""
