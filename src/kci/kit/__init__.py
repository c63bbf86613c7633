"""What every package needs and no domain owns: tasks, clock, backoff, work queue, settings, logs, metrics.

May import: nothing of ours.
May touch: the event loop, the clock, the environment (settings only), the metrics' own port.
Must not: know a noun of ours.
"""
